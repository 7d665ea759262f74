"""What whoever watches over the server is told."""

from __future__ import annotations

from typing import get_args

import pytest
from anyio.lowlevel import checkpoint
from prometheus_client.parser import text_string_to_metric_families

from kernelproto import AuthenticatorUnavailable
from kernelproto.interfaces import DeathCause, User, UserRequest
from kernelproto.testing import FakeKernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

Numbers = dict[str, float]


def numbers(text: str) -> Numbers:
    """Return the samples of an exposition, by their names and the values of their labels."""
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


@pytest.mark.parametrize("user", [None, "stranger", "ada"])
async def test_everybody_learns_that_it_lives_and_no_more(serving, user: str | None) -> None:
    async with serving() as server, server.client(user) as client:
        response = await client.get("/healthz")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert (await client.post("/healthz")).status_code == 405
        for path in ("/healthz/", "/healthz/x", "/metrics/"):
            assert (await client.get(path)).status_code != 200


@pytest.mark.parametrize(
    ("metrics_token", "token", "status"),
    [
        (None, None, 403),
        (None, "stranger", 403),
        (None, "ada", 403),
        (None, "root", 200),
        ("scraper", None, 403),
        ("scraper", "ada", 403),
        ("scraper", "root", 200),
        ("scraper", "scraper", 200),
        ("scraper", "scrape", 403),
    ],
)
async def test_who_may_read_the_metrics(
    serving, metrics_token: str | None, token: str | None, status: int
) -> None:
    async with serving({"metrics_token": metrics_token}) as server, server.client(token) as client:
        response = await client.get("/metrics")
        assert response.status_code == status
        assert ("kernelproto_kernels" in response.text) == (status == 200)


async def test_token_for_the_metrics_is_good_for_nothing_else(serving) -> None:
    class Nobody:
        async def authenticate(self, request: UserRequest) -> User | None:
            return None

    settings = {"metrics_token": "scraper"}
    async with serving(settings, Nobody()) as server, server.client("scraper") as scraper:
        assert (await scraper.get("/metrics")).status_code == 200
        assert (await scraper.get("/api/kernels")).status_code == 403
        assert (await scraper.post("/api/kernels")).status_code == 403
        assert server.pool.kernels() == []


async def test_scraper_needs_nobody_to_know_the_users(serving) -> None:
    class Unavailable:
        async def authenticate(self, request: UserRequest) -> User | None:
            raise AuthenticatorUnavailable("ask again later")

    settings = {"metrics_token": "scraper"}
    async with serving(settings, Unavailable()) as server:
        for token, status in [("scraper", 200), ("root", 503)]:
            async with server.client(token) as client:
                assert (await client.get("/metrics")).status_code == status
                assert (await client.get("/healthz")).status_code == 200


async def test_life_of_kernels_in_numbers(serving) -> None:
    async with serving(max_kernels=2) as server:
        before = await metrics_of(server)
        assert before["kernels idle"] == before["kernel_starts_total"] == 0
        async with server.client("ada") as ada:
            kernel_id = await server.start("ada")
            await server.start("bob")
            assert (await ada.post(f"/api/kernels/{kernel_id}/restart")).status_code == 200
            assert (await ada.post("/api/kernels")).status_code == 429
            async with server.connect("ada", kernel_id) as socket:
                request = await socket.execute("work")
                await socket.receive_until("execute_input", request)
                await server.start("eve")  # bob's kernel makes room
                during = await metrics_of(server)
                assert (during["kernels busy"], during["kernels idle"]) == (1, 1)
                assert during["connections"] == 1
            assert (await ada.delete(f"/api/kernels/{kernel_id}")).status_code == 204
        after = await metrics_of(server)
    assert (after["kernel_starts_total"], after["kernel_restarts_total"]) == (3, 1)
    assert (after["kernel_ends_total evicted"], after["kernel_ends_total released"]) == (1, 1)
    assert after["starts_refused_total pool"] == 1
    assert after["kernel_start_seconds_count"] == 3
    assert after["kernel_start_seconds_bucket +Inf"] == 3
    assert (after["kernels busy"], after["kernels idle"], after["connections"]) == (0, 1, 0)
    assert after["process_resident_memory_bytes"] > 2**20


async def test_messages_in_numbers(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            found = await socket.finish(await socket.execute("6 * 7"))
            await socket.finish(await socket.send("kernel_info_request", {}))
            while (during := await metrics_of(server))["unsent_messages"]:
                await checkpoint()  # the client has them all; its server may not know it yet
            assert during["unsent_messages_slowest"] == 0
            assert during["kept_bytes"] > 0
        after = await metrics_of(server)
    assert after["messages_total from_clients"] == 2
    assert after["messages_total to_clients"] >= len(found)
    assert after["round_trip_seconds_count execute"] == 1
    assert after["round_trip_seconds_count kernel_info"] == 1
    assert 0 < after["round_trip_seconds_sum execute"] < 60


async def test_what_waits_for_a_slow_client_in_numbers(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as reader,
            server.connect("ada", kernel_id, buffered=0),  # it never reads
        ):
            for _ in range(10):
                await reader.finish(await reader.execute("6 * 7"))
            during = await metrics_of(server)
    assert during["unsent_messages"] >= during["unsent_messages_slowest"] >= 10


async def test_labels_are_not_for_clients_to_make_up(serving) -> None:
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
