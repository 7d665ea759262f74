"""Kernels on another machine, with a real sshd and real kernels."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from kernelproto import (
    InvalidLaunchParameter,
    KernelDied,
    KernelFinder,
    KernelInUse,
    NoSuchKernel,
    Reachable,
    Unreachable,
    adopt_kernel,
    run_kernel,
)
from kernelproto.ssh import HostOptions, RemoteHostError, SSHProvider, connection
from tests.host.kept_messages import check_messages_are_kept
from tests.ssh.sshd import Sshd

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 100

FLOOD = "for number in range(2000): print(number)"
LINES = "".join(f"{number}\n" for number in range(2000))


@pytest.fixture
def provider(sshd: Sshd) -> SSHProvider:
    return SSHProvider({"far": sshd.options}, linger=20)


@pytest.fixture
def finder(provider: SSHProvider) -> KernelFinder:
    return KernelFinder([provider])


async def until_nothing_is_left(sshd: Sshd) -> None:
    """Wait until no process of the user is left on the far side."""
    while sshd.far_processes():  # noqa: ASYNC110 - no event tells of their end
        await anyio.sleep(0.02)


async def test_life_of_a_far_kernel(finder: KernelFinder, sshd: Sshd) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(
            "ssh/far/python3", finder=finder, cwd=str(sshd.home), env={"NAME": "it's $HOME; \\"}
        ) as kernel:
            code = "import os; print(os.getcwd(), os.getuid(), os.environ['NAME'])"
            result = await kernel.execute(code)
            assert result.stdout == f"{sshd.home} {sshd.uid} it's $HOME; \\\n"
            assert (await kernel.execute(FLOOD)).stdout == LINES
            async with kernel.execute("import time; print(1); time.sleep(100)") as execution:
                await anext(execution)
                await kernel.interrupt()
                result = await execution
                assert result.error is not None
                assert result.error.ename == "KeyboardInterrupt"
            assert kernel.handle is not None
            with pytest.raises(KernelDied) as caught:
                await kernel.execute("import os; os._exit(3)")
            assert caught.value.returncode == 3
            assert "kernel.json" in kernel.manager.output_tail()
        await until_nothing_is_left(sshd)


async def test_next_owner_gets_unconfirmed_messages(
    provider: SSHProvider, finder: KernelFinder, sshd: Sshd
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        info, manager = await provider.launch("far/python3")
        await check_messages_are_kept(finder, info, manager, manager._link)
        await manager._let_go()  # the connection of the program that counts as killed
        await until_nothing_is_left(sshd)


@pytest.mark.parametrize("cut", ["master", "session", "proxy"])
async def test_cut_connection_loses_nothing(finder: KernelFinder, sshd: Sshd, cut: str) -> None:
    """A short form of tests/integration/ssh_conformance.py."""
    with anyio.fail_after(GUARD_SECONDS), sshd.through_proxy() as proxy:
        async with run_kernel("ssh/far/python3", finder=finder) as kernel:
            events = kernel.events()
            await kernel.execute("state = 7")
            code = "import time\nfor number in range(2000):\n print(number)\n time.sleep(0.0005)"
            async with kernel.execute(code) as execution:
                text = (await anext(execution)).text
                if cut == "master":
                    [connection] = _connections()
                    os.kill(connection._master.pid, signal.SIGKILL)
                elif cut == "session":
                    sshd.signal_sessions(signal.SIGKILL)
                else:
                    proxy.cut()
                assert isinstance(await anext(events), Unreachable)
                assert (await execution).stdout == LINES
            assert isinstance(await anext(events), Reachable)
            assert text
            assert (await kernel.execute("state")).text == "7"
        await until_nothing_is_left(sshd)


async def test_kernel_is_adopted(finder: KernelFinder, sshd: Sshd) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        info, manager = await finder.launch("ssh/far/python3")
        handle = manager.handle()
        with pytest.raises(KernelInUse):
            await finder.adopt(handle)
        await manager.detach()
        async with adopt_kernel(handle, finder=finder) as kernel:
            assert (await kernel.execute("6 * 7")).text == "42"
            assert kernel.connection_info == info
            await kernel.shutdown()
        await until_nothing_is_left(sshd)


async def test_kernel_types_of_named_hosts_alone(finder: KernelFinder, sshd: Sshd) -> None:
    names = [name async for name, _ in finder.find_kernels()]
    assert "ssh/far/python3" in names
    with pytest.raises(NoSuchKernel, match="no kernel type 'ssh/other/python3'"):
        await finder.launch("ssh/other/python3")
    with pytest.raises(NoSuchKernel, match="far/python3"):
        await finder.launch("ssh/far/no-such-kernel")
    nobody_named = KernelFinder([SSHProvider()])
    assert [name async for name, _ in nobody_named.find_kernels()] == []


@pytest.mark.parametrize(
    "params",
    [{"sandbox": {}}, {"transport": "tcp"}, {"output": "/tmp/x"}, {"env": {"A": 1}}],
)
async def test_parameters_that_a_host_cannot_do_are_refused(finder: KernelFinder, params) -> None:
    with pytest.raises(InvalidLaunchParameter):
        await finder.launch("ssh/far/python3", launch_params=params)


async def test_folder_that_is_not_there_is_refused(finder: KernelFinder, sshd: Sshd) -> None:
    with pytest.raises(InvalidLaunchParameter, match="no-such-folder"):
        await finder.launch("ssh/far/python3", cwd="/no-such-folder")
    await until_nothing_is_left(sshd)


async def test_unreachable_host_is_named(sshd: Sshd) -> None:
    provider = SSHProvider({"silent": HostOptions(ssh=sshd.options.ssh)})
    with pytest.raises(RemoteHostError, match="'silent'") as caught:
        await KernelFinder([provider]).launch("ssh/silent/python3")
    assert caught.value.fault == "unreachable"
    assert [kernel async for kernel in provider.find_kernels()] == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"hosts": ["-oProxyCommand=x"]}, "name of a host"),
        ({"hosts": {"a": {"python": "$(x)"}}}, "python of a host"),
        ({"host": []}, "unknown field"),
    ],
)
def test_invalid_configuration_is_refused(config, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SSHProvider().load_config(config)


def test_hosts_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELPROTO_SSH_HOSTS", "node7, node8,-x,")
    assert list(SSHProvider()._hosts) == ["node7", "node8"]


def _connections() -> list[connection.Connection]:
    known = connection._connections.get().values()
    return [each for each in known if each._master is not None]
