"""The metrics of the server."""

from __future__ import annotations

import time
from functools import partial
from typing import get_args

import anyio
import httpx
import psutil
import pytest
from anyio.lowlevel import checkpoint
from prometheus_client.parser import text_string_to_metric_families

from kernelproto import KernelFinder, KernelPool
from kernelproto.interfaces import DeathCause, HasProcess
from kernelproto.launch.providers import IPykernelProvider
from kernelproto.server import SingleUserToken, create_app
from kernelproto.testing import FakeKernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


Numbers = dict[str, float]


def numbers(text: str) -> Numbers:
    """Return the samples of an exposition by name and label values."""
    return {
        " ".join([sample.name.removeprefix("kernelproto_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def metrics_of(server) -> Numbers:
    async with server.client("root") as root:
        response = await root.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return numbers(response.text)


async def test_deaths_are_counted_by_cause(serving) -> None:
    async with serving() as server:
        assert (await metrics_of(server))["kernel_deaths_total signal"] == 0
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            for returncode in (-9, 3):
                server.provider.kernels[-1].die(returncode)
                await socket.receive_until("status")
                await socket.finish(await socket.execute("6 * 7"))
        after = await metrics_of(server)
    assert {name: count for name, count in after.items() if "deaths_total" in name} == {
        f"kernel_deaths_total {cause}": float(cause in ("signal", "exit_status"))
        for cause in get_args(DeathCause)
    }


async def test_metrics_of_kernels(serving) -> None:
    async with serving(max_kernels=2) as server:
        before = await metrics_of(server)
        assert before["kernels idle fake/kernel"] == before["kernel_starts_total"] == 0
        async with server.client("ada") as ada:
            kernel_id = await server.start("ada")
            await server.start("bob")
            assert (await ada.post(f"/api/kernels/{kernel_id}/restart")).status_code == 200
            assert (await ada.post("/api/kernels")).status_code == 429
            async with server.connect("ada", kernel_id) as socket:
                request = await socket.execute("work")
                await socket.receive_until("execute_input", request)
                await server.start("eve")  # bob's kernel is evicted
                during = await metrics_of(server)
                assert (during["kernels busy fake/kernel"], during["kernels idle fake/kernel"]) == (
                    1,
                    1,
                )
                assert during["connections"] == 1
            assert (await ada.delete(f"/api/kernels/{kernel_id}")).status_code == 204
        after = await metrics_of(server)
    assert (after["kernel_starts_total"], after["kernel_restarts_total"]) == (3, 1)
    assert (after["kernel_ends_total evicted"], after["kernel_ends_total released"]) == (1, 1)
    assert after["starts_refused_total max_per_user"] == 1
    assert after["kernel_start_seconds_count"] == 3
    assert after["kernel_start_seconds_bucket +Inf"] == 3
    assert (after["kernels busy fake/kernel"], after["kernels idle fake/kernel"]) == (0, 1)
    assert after["connections"] == 0
    assert after["process_resident_memory_bytes"] > 2**20


async def test_unknown_kernel_types_share_a_label(serving) -> None:
    async with serving(max_per_user=2, max_kernels=2) as server:
        await server.start("ada")
        async with anyio.create_task_group() as tasks, server.client("ada") as ada:
            made_up = {"name": "made up"}
            async with server.client("root") as root:
                before = numbers((await root.get("/metrics")).text)
            tasks.start_soon(partial(ada.post, "/api/kernels", json=made_up))
            while server.pool.counts["started"] < 2:
                await checkpoint()
            async with server.client("root") as root:
                text = (await root.get("/metrics")).text
    types = {name.rpartition(" ")[2] for name in before if name.startswith("kernels ")}
    assert types == {"fake/kernel", "other"}
    assert numbers(text).keys() == before.keys()
    assert "made up" not in text


async def test_metrics_of_users_and_limits(serving) -> None:
    settings = {"max_websockets_per_user": 7}
    async with serving(settings, max_kernels=5, max_per_user=2) as server:
        kernel_id = await server.start("ada")
        await server.start("ada")
        await server.start("bob")
        async with server.connect("ada", kernel_id), server.connect("ada", kernel_id):
            during = await metrics_of(server)
        after = await metrics_of(server)
    assert (during["users"], during["connected_users"], during["connections"]) == (2, 1, 2)
    assert (after["users"], after["connected_users"]) == (2, 0)
    assert {name: value for name, value in after.items() if name.startswith("limit ")} == {
        "limit max_kernels": 5,
        "limit max_per_user": 2,
        "limit max_websockets_per_user": 7,
    }


async def test_metrics_of_waiting_and_refused_requests(serving) -> None:
    async with serving(max_kernels=1) as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id),
            anyio.create_task_group() as tasks,
            server.client("bob") as bob,
        ):
            assert (await bob.post("/api/kernels")).status_code == 503
            tasks.start_soon(partial(server.pool.get, "eve", wait=True))
            while not server.pool.waiting:
                await checkpoint()
            during = await metrics_of(server)
            await server.pool.release("ada", name=kernel_id)
        async with server.client("stranger") as stranger:
            await stranger.get("/api/kernels")
        after = await metrics_of(server)
    assert (during["waiting_requests"], after["waiting_requests"]) == (1, 0)
    assert after["starts_refused_total max_kernels"] == 1
    assert after["starts_refused_total max_per_user"] == 0
    assert after["logins_refused_total unknown_token"] == 1


async def test_metrics_of_failed_logins(serving) -> None:
    async with serving({"failed_logins_per_minute": 0.001}) as server:
        async with server.client("root") as root, server.client("stranger") as stranger:
            await root.get("/metrics")  # this token is accepted from now on
            while (await stranger.get("/api/kernels")).status_code != 429:
                pass
        after = await metrics_of(server)
    assert after["logins_refused_total too_many_failures"] == 1


async def test_metrics_of_memory_and_processor_time() -> None:
    finder = KernelFinder([IPykernelProvider()])
    with anyio.fail_after(60):
        async with KernelPool(finder=finder) as pool:
            kernel = await pool.get("user")
            app = create_app(pool, finder=finder, authenticator=SingleUserToken("t"))
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                found = numbers((await client.get("/metrics?token=t")).text)
            assert isinstance(kernel.manager, HasProcess)
            memory = psutil.Process(kernel.manager.pid).memory_info().rss
    assert memory * 0.5 < found["kernels_memory_bytes"] < memory * 1.5
    assert found["kernels_cpu_seconds_total"] > 0


async def test_lag_of_the_event_loop_is_measured(serving) -> None:
    async with serving() as server, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.app.state.metrics.watch_loop, period=0.001))
        while (await metrics_of(server))["loop_lag_seconds_sum"] < 0.25:
            time.sleep(0.3)  # noqa: ASYNC251
        after = await metrics_of(server)
        tasks.cancel_scope.cancel()
    assert after["loop_lag_seconds_count"] > after["loop_lag_seconds_bucket 0.25"]


async def test_metrics_of_messages(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            found = await socket.finish(await socket.execute("6 * 7"))
            await socket.finish(await socket.send("kernel_info_request", {}))
            while (during := await metrics_of(server))["unsent_messages"]:
                await checkpoint()  # until the server has counted the last message
            assert during["unsent_messages_slowest"] == 0
            assert during["kept_bytes"] > 0
        after = await metrics_of(server)
    assert after["messages_total from_clients"] == 2
    assert after["messages_total to_clients"] >= len(found)
    assert after["round_trip_seconds_count execute"] == 1
    assert after["round_trip_seconds_count kernel_info"] == 1
    assert 0 < after["round_trip_seconds_sum execute"] < 60


async def test_metrics_of_a_slow_client(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as subscriber,
            server.connect("ada", kernel_id, buffered=0),  # never reads
        ):
            for _ in range(10):
                await subscriber.finish(await subscriber.execute("6 * 7"))
            during = await metrics_of(server)
    assert during["unsent_messages"] >= during["unsent_messages_slowest"] >= 10


async def test_clients_cannot_create_labels(serving) -> None:
    def prepare(fake: FakeKernel) -> None:
        fake.on("made_up_request", {"status": "ok"})

    async with serving(prepare=prepare) as server:
        kernel_id = await server.start("mallory")
        async with server.connect("mallory", kernel_id) as socket:
            await socket.finish(await socket.send("made_up_request", {}))
        after = await metrics_of(server)
    assert after["round_trip_seconds_count other"] == 1
    for name in after:
        assert not any(word in name for word in ("made_up", "mallory", kernel_id))
