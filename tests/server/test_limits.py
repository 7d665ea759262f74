"""Limits of kernel types, groups and users."""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import InvalidSettings, KernelFinder
from kernelproto.interfaces import User, UserRequest
from kernelproto.pool import WarmKernels
from kernelproto.server.auth.authenticators import token_of
from kernelproto.server.limits import (
    KernelLimits,
    LimitTables,
    UserLimits,
    check_limits,
    warm_kernels,
)
from kernelproto.testing import FakeProvider

GIB = 2**30


class InGroups:
    """Takes a token for a name and groups, such as ``ada+students+staff``."""

    async def authenticate(self, request: UserRequest) -> User | None:
        name, *groups = (token_of(request) or "").split("+")
        return User(name, groups=frozenset(groups)) if name else None


TABLES = LimitTables(
    kernels={"fake/kernel": KernelLimits(memory=GIB, idle_timeout=60, cull_connected=True)},
    groups={
        "staff": UserLimits(memory=0, max_per_user=4),
        "students": UserLimits(memory=3 * GIB, max_per_user=2, max_age=0),
    },
    users={"ada": UserLimits(max_per_user=3)},
)


@pytest.mark.parametrize(
    ("user", "limits"),
    [
        (User("bob"), {"memory": GIB}),
        (User("bob", groups=frozenset({"others"})), {"memory": GIB}),
        (
            User("bob", groups=frozenset({"students"})),
            {"memory": 3 * GIB, "max_per_user": 2, "max_age": None},
        ),
        (
            User("bob", groups=frozenset({"students", "staff"})),
            {"memory": None, "max_per_user": 4, "max_age": None},
        ),
        (User("ada"), {"memory": GIB, "max_per_user": 3}),
        (
            User("ada", groups=frozenset({"staff"})),
            {"memory": None, "max_per_user": 3},
        ),
    ],
)
def test_user_overrides_groups_which_override_kernel_type(user: User, limits) -> None:
    of_type = {"idle_timeout": 60, "cull_connected": True}
    assert TABLES.find(user, TABLES.kernels.values()) == of_type | limits


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_starts_have_their_limits(serving) -> None:
    launched = []

    class Provider(FakeProvider):
        async def launch(self, name, **options):
            launched.append(options.pop("launch_params"))
            return await super().launch(name, **options)

    async with serving(
        {"limits": TABLES},
        authenticator=InGroups(),
        provider_type=Provider,
        launch_params={"limits": {"open_files": 100, "memory": 5}},
    ) as server:
        for user, most, memory in [
            ("bob", 1, GIB),
            ("ada", 3, GIB),
            ("kim+students", 2, 3 * GIB),
            ("eve+students+staff", 4, None),
        ]:
            for _ in range(most):
                await server.start(user)
                limits = launched.pop()["limits"]
                assert limits == {"open_files": 100, "memory": memory}
            async with server.client(user) as client:
                refused = await client.post("/api/kernels")
            assert refused.status_code == 429
            assert f"you may have at most {most} kernel" in refused.json()["message"]


class Launches(FakeProvider):
    """Keeps the launch parameters of each start, and launches without them."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.params: list[Any] = []

    async def launch(self, name, **options):
        self.params.append(options.pop("launch_params"))
        return await super().launch(name, **options)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_starts_have_the_sandboxes_of_the_tables(serving, tmp_path) -> None:
    tables = LimitTables(
        kernels={"fake/kernel": KernelLimits(sandbox={"network": "full", "tmp": 5})},
        groups={"staff": UserLimits(sandbox={"tmp": 7}, processes=9)},
        users={"ada": UserLimits(sandbox={"network": "loopback"})},
    )
    settings = {"limits": tables, "root_dir": str(tmp_path), "max_per_user": 9}
    writable = {"writable": {str(tmp_path): None}}
    async with serving(
        settings, authenticator=InGroups(), provider_type=Launches, max_per_user=9
    ) as server:
        for user, wanted, found in [
            ("bob", None, {"network": "full", "tmp": 5}),
            ("bob", {"network": "none"}, {"network": "none", "tmp": 5}),
            ("eve+staff", None, {"network": "full", "tmp": 7, "processes": 9}),
            ("eve+staff", {"processes": 3}, {"network": "full", "tmp": 7, "processes": 3}),
            ("ada", {"tmp": 4}, {"network": "loopback", "tmp": 4}),
        ]:
            body = {} if wanted is None else {"launch_params": {"sandbox": wanted}}
            async with server.client(user) as client:
                started = await client.post("/api/kernels", json=body)
            assert started.status_code == 201, started.text
            assert server.provider.params[-1]["sandbox"] == found | writable
            assert "processes" not in server.provider.params[-1]["limits"]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_requests_for_weaker_sandboxes_are_refused(serving) -> None:
    tables = LimitTables(users={"ada": UserLimits(sandbox={})})
    async with (
        serving({"limits": tables}, provider_type=Launches, max_per_user=2) as server,
        server.client("ada") as ada,
        server.client("bob") as bob,
    ):
        full = {"launch_params": {"sandbox": {"network": "full"}}}
        for path in ("/api/kernels", "/api/contexts"):
            response = await ada.post(path, json=full)
            assert response.status_code == 400
            assert "sandbox: network 'full' is weaker" in response.json()["message"]
        assert server.pool.kernels() == []
        # Nothing confines bob's other kernels.
        context = await bob.post("/api/contexts", json=full)
        assert context.status_code == 201
        assert server.provider.params[-1]["sandbox"]["network"] == "full"
        again = await bob.post("/api/kernels", json={**full, "kernel_id": context.json()["id"]})
        assert again.status_code == 400
        assert "the kernel exists already" in again.json()["message"]
        other = await bob.post("/api/kernels", json={"launch_params": {"limits": {}}})
        assert other.status_code == 400
        assert "unknown field `limits`" in other.json()["message"]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("name", [None, "kernel", "fake/kernel"])
async def test_limits_of_a_kernel_type_apply_to_all_its_names(serving, name) -> None:
    tables = LimitTables(kernels={"kernel": KernelLimits(idle_timeout=0.02)})
    async with serving({"limits": tables}) as server, server.client("ada") as client:
        started = await client.post("/api/kernels", json={} if name is None else {"name": name})
        assert started.status_code == 201, started.text
        await server.provider.kernels[0].wait()
        assert (await client.get("/api/kernels")).json() == []


@pytest.mark.anyio
async def test_limits_of_an_unknown_kernel_type_are_refused() -> None:
    async with FakeProvider() as provider:
        finder = KernelFinder([provider])
        await check_limits(LimitTables(kernels={"kernel": KernelLimits()}), finder, has_groups=True)
        twice = LimitTables(kernels={"kernel": KernelLimits(), "fake/kernel": KernelLimits()})
        with pytest.raises(
            InvalidSettings, match=r"'kernel' and 'fake/kernel' are the same kernel type"
        ):
            await check_limits(twice, finder, has_groups=True)
        unknown = LimitTables(kernels={"spec/ir": KernelLimits()})
        with pytest.raises(InvalidSettings, match=r"limits\.kernels: no kernel type 'spec/ir'"):
            await check_limits(unknown, finder, has_groups=True)


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
async def test_limits_that_cannot_be_enforced_are_refused(monkeypatch) -> None:
    finder = KernelFinder([])
    tables = LimitTables(users={"ada": UserLimits(open_files=10**9)})
    with pytest.raises(InvalidSettings, match=r'limits\.users\."ada": .*open_files can be'):
        await check_limits(tables, finder, has_groups=True)
    tables = LimitTables(users={"ada": UserLimits(processes=100)})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    await check_limits(tables, finder, has_groups=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InvalidSettings, match="does not limit the processes of root"):
        await check_limits(tables, finder, has_groups=True)
    await check_limits(LimitTables(users={"ada": UserLimits(processes=0)}), finder, has_groups=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("table", "warm", "found"),
    [
        (None, 0, {}),
        (KernelLimits(memory=GIB), 0, {}),
        (None, 2, {"fake/kernel": WarmKernels(2)}),
        (KernelLimits(idle_timeout=5), 2, {"fake/kernel": WarmKernels(2)}),
        (KernelLimits(warm=3), 2, {"fake/kernel": WarmKernels(3)}),
        (KernelLimits(warm=0), 2, {}),
        (
            KernelLimits(memory=GIB, processes=0, max_age=9),
            2,
            {"fake/kernel": WarmKernels(2, {"limits": {"memory": GIB, "processes": None}})},
        ),
    ],
)
@pytest.mark.parametrize(
    ("kernel", "key"), [("kernel", "fake/kernel"), ("fake/kernel", "kernel"), ("kernel", "kernel")]
)
async def test_warm_kernels_have_the_limits_of_their_type(table, warm, found, kernel, key) -> None:
    tables = LimitTables(kernels={} if table is None else {key: table})
    async with FakeProvider() as provider:
        finder = KernelFinder([provider])
        assert await warm_kernels(tables, finder, kernel=kernel, warm=warm) == found


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_start_has_a_warm_kernel_if_it_has_no_other_limits(serving, tmp_path) -> None:
    class Provider(FakeProvider):
        async def launch(self, name, *, launch_params, **options):
            assert launch_params.keys() == {"limits"}  # a fake kernel has no limits
            return await super().launch(name, launch_params={}, **options)

    tables = LimitTables(
        kernels={"kernel": KernelLimits(memory=GIB, warm=1)}, users={"bob": UserLimits(memory=1)}
    )
    async with FakeProvider() as provider:
        warm = await warm_kernels(tables, KernelFinder([provider]), kernel="fake/kernel", warm=0)
    async with serving(
        {"limits": tables, "root_dir": str(tmp_path)},
        provider_type=Provider,
        cwd=str(tmp_path),
        warm=warm,
    ) as server:
        started = server.provider.kernels
        for user, launched in [("ada", 2), ("bob", 3), ("kim", 4)]:
            while len(started) < launched - 1:
                await checkpoint()
            await anyio.wait_all_tasks_blocked()
            spare = started[0 if user == "ada" else 1]
            await server.start(user)
            kernel = await server.pool.get(user, name=server.pool.kernels(user)[0].name)
            is_warm = kernel.connection_info == spare.connection_info
            assert (user, is_warm) == (user, user != "bob")
