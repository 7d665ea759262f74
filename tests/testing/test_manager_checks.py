from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kernelproto.exceptions import UnsupportedRequest
from kernelproto.launch import launcher
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.testing import FakeManager, FakeProvider, check_kernel_manager

pytestmark = pytest.mark.anyio

# A mutant that never returns costs as much.
PATIENCE_SECONDS = 1


class ConstantId(FakeManager):
    def __init__(self, kernel) -> None:
        super().__init__(kernel)
        self.kernel_id = "kernel"


class NumberForId(FakeManager):
    def __init__(self, kernel) -> None:
        super().__init__(kernel)
        self.kernel_id = 1


class WithoutCleanup(FakeManager):
    cleanup = None


class ImmortalInWord(FakeManager):
    async def is_alive(self) -> bool:
        return True


class DeadInWord(FakeManager):
    async def is_alive(self) -> bool:
        return False


class ImpatientWait(FakeManager):
    async def wait(self) -> int | None:
        return self.kernel.returncode


class EndlessWait(FakeManager):
    async def wait(self) -> int | None:
        await anyio.sleep_forever()


class StatusInWords(FakeManager):
    async def wait(self) -> int | None:
        return f"exit status {await super().wait()}"


class IdleKill(FakeManager):
    async def kill(self) -> None:
        pass


class PoliteKill(FakeManager):
    async def kill(self) -> None:
        await self.terminate()


class PositiveStatus(FakeManager):
    async def wait(self) -> int | None:
        return 128 - await super().wait()


class IdleSignal(FakeManager):
    async def signal(self, signum: int) -> None:
        pass

    async def kill(self) -> None:
        self.kernel.die(-9)


class ViolentProbe(FakeManager):
    async def signal(self, signum: int) -> None:
        await super().signal(signum or 9)


class IdleTerminate(FakeManager):
    async def terminate(self) -> None:
        pass


class LoudInterrupt(FakeManager):
    async def interrupt(self) -> None:
        raise NotImplementedError


class OneWaiterOnly(FakeManager):
    waiting = False

    async def wait(self) -> int | None:
        if self.waiting:
            raise RuntimeError("another task waits already")
        self.waiting = True
        try:
            return await super().wait()
        finally:
            self.waiting = False


class StatusForOneWaiter(FakeManager):
    told = False

    async def wait(self) -> int | None:
        status = await super().wait()
        if self.told:
            return None
        self.told = True
        return status


class WaitThatTakesTheKernelAlong(FakeManager):
    async def wait(self) -> int | None:
        try:
            return await super().wait()
        finally:
            self.kernel.die()


class WaitThatDependsOnAnother(FakeManager):
    ended: anyio.Event | None = None

    async def wait(self) -> int | None:
        if self.ended is None:
            ended = self.ended = anyio.Event()
            await super().wait()
            ended.set()
        await self.ended.wait()
        return self.kernel.returncode


class LateSignal(FakeManager):
    async def signal(self, signum: int) -> None:
        if not await self.is_alive():
            raise ProcessLookupError
        await super().signal(signum)


class LateInterrupt(FakeManager):
    async def interrupt(self) -> None:
        if not await self.is_alive():
            raise ProcessLookupError


class LateTerminate(FakeManager):
    async def terminate(self) -> None:
        if not await self.is_alive():
            raise ProcessLookupError
        await super().terminate()


class CleanedUp(FakeManager):
    """What the next ones are made of: it knows whether it was cleaned up."""

    cleaned_up = False

    async def cleanup(self) -> None:
        await super().cleanup()
        self.cleaned_up = True


class NoKillAfterCleanup(CleanedUp):
    async def kill(self) -> None:
        if self.cleaned_up:
            raise RuntimeError("there is nothing left to kill")
        await super().kill()

    async def cleanup(self) -> None:
        await super(CleanedUp, self).signal(9)
        self.cleaned_up = True


class StatusForgotten(CleanedUp):
    async def wait(self) -> int | None:
        return None if self.cleaned_up else await super().wait()


class IdleCleanup(FakeManager):
    async def cleanup(self) -> None:
        pass


class CleanupOnce(CleanedUp):
    async def cleanup(self) -> None:
        if self.cleaned_up:
            raise RuntimeError("it was cleaned up before")
        await super().cleanup()


class CleanupByOne(FakeManager):
    guard = False

    async def cleanup(self) -> None:
        if self.guard:
            raise RuntimeError("another task cleans up already")
        self.guard = True
        await super().cleanup()
        self.guard = False


class CleanupThatGivesUp(FakeManager):
    begun = False

    async def cleanup(self) -> None:
        if not self.begun:
            self.begun = True
            await super().cleanup()


class CleanupThatDependsOnAnother(FakeManager):
    done: anyio.Event | None = None

    async def cleanup(self) -> None:
        if self.done is None:
            done = self.done = anyio.Event()
            try:
                await anyio.sleep(0.01)
                await super().cleanup()
            finally:
                done.set()
                self.done = None
        else:
            await self.done.wait()


class Describing(FakeManager):
    command: object = ("kernel", "--verbose")

    def output_tail(self) -> str:
        return "its last words"


class EmptyCommand(Describing):
    command = ()


class CommandOfPaths(Describing):
    command = (Path("kernel"),)


class TailOfBytes(Describing):
    def output_tail(self) -> str:
        return b"its last words"


class TailCutOff(Describing):
    def output_tail(self) -> str:
        if self.kernel.returncode is not None:
            raise OSError("it is closed")
        return "its last words"


class FileLeft(FakeManager):
    def __init__(self, kernel) -> None:
        super().__init__(kernel)
        path = Path(os.environ["JUPYTER_RUNTIME_DIR"], f"kernel-{kernel.kernel_id}.json")
        path.write_bytes(kernel.connection_info.to_json())


class SocketLeft(FakeManager):
    def __init__(self, kernel) -> None:
        super().__init__(kernel)
        Path(kernel.connection_info.endpoint("hb").removeprefix("ipc://")).touch()


left_open: list[int] = []
left_running: list[subprocess.Popen[bytes]] = []


def start_sleeping() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"])


class DescriptorLeft(FakeManager):
    async def cleanup(self) -> None:
        await super().cleanup()
        left_open.append(os.open(os.devnull, os.O_RDONLY))


class ProcessLeft(FakeManager):
    async def cleanup(self) -> None:
        await super().cleanup()
        left_running.append(start_sleeping())


MUTANTS = {
    ConstantId: "every kernel has a kernel_id of its own",
    NumberForId: "kernel_id is a str",
    WithoutCleanup: "it has all that a KernelManager has",
    ImmortalInWord: "is_alive() is False once wait() has returned",
    DeadInWord: "is_alive() is True while the process runs",
    ImpatientWait: "wait() waits while the process runs",
    EndlessWait: "kill() ends the process: not within 1 s",
    StatusInWords: "wait() returns an exit status, or None: found 'exit status -9'",
    IdleKill: "kill() ends the process: not within 1 s",
    PoliteKill: "is the number of the signal that ended it: found -15",
    PositiveStatus: "is the number of the signal that ended it: found 137",
    IdleSignal: "signal() sends the signal: not within 1 s",
    ViolentProbe: "signal(0) changes nothing",
    IdleTerminate: "terminate() asks the process to end: not within 1 s",
    LoudInterrupt: "interrupt() raises nothing but UnsupportedRequest: it raised NotImplemented",
    OneWaiterOnly: "wait() returns the same exit status to several tasks: it raised",
    StatusForOneWaiter: "wait() returns the same exit status to several tasks: found",
    WaitThatTakesTheKernelAlong: "a cancelled wait() changes nothing",
    WaitThatDependsOnAnother: "a cancelled wait() changes nothing",
    LateSignal: "signal() may be called once the process has ended: it raised ProcessLookupError",
    LateInterrupt: "interrupt() may be called once the process has ended",
    LateTerminate: "terminate() may be called once the process has ended",
    NoKillAfterCleanup: "kill() may be called after cleanup()",
    StatusForgotten: "wait() returns the same exit status every time: found None",
    IdleCleanup: "cleanup() ends the process",
    CleanupOnce: "cleanup() may be called again",
    CleanupByOne: "cleanup() may be called by several tasks at once",
    CleanupThatGivesUp: "cleanup() does all its work after another call of it was cancelled",
    CleanupThatDependsOnAnother: "cleanup() does all its work while another call of it is",
    EmptyCommand: "command is the command line, a sequence of str",
    CommandOfPaths: "command is the command line, a sequence of str",
    TailOfBytes: "output_tail() returns text",
    TailCutOff: "output_tail() may be called at any time",
    FileLeft: "cleanup() removes every file that the launch created",
    SocketLeft: "cleanup() removes every file that the launch created",
    DescriptorLeft: "cleanup() leaves no process and no open descriptor: found ['descriptor",
    ProcessLeft: "cleanup() leaves no process and no open descriptor: found ['process",
}


@pytest.fixture(autouse=True)
def leave_nothing(tmp_path, monkeypatch) -> Iterator[None]:
    """Remove the leftovers of the mutants."""
    monkeypatch.chdir(tmp_path)  # the fakes' sockets would be here
    yield
    while left_open:
        os.close(left_open.pop())
    while left_running:
        with left_running.pop() as process:
            process.kill()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("mutant", "requirement"), MUTANTS.items(), ids=[mutant.__name__ for mutant in MUTANTS]
)
async def test_a_violated_requirement_is_named(mutant, requirement) -> None:
    async with FakeProvider() as provider:

        async def launch():
            info, manager = await provider.launch("kernel")
            return info, mutant(manager.kernel)

        with pytest.raises(AssertionError) as caught:
            await check_kernel_manager(launch, patience=PATIENCE_SECONDS)
    assert requirement in str(caught.value)
    assert str(caught.value).startswith("requirement violated: ")


class InterruptedByMessage(FakeManager):
    async def interrupt(self) -> None:
        raise UnsupportedRequest("send interrupt_request")


@pytest.mark.parametrize("kind", [FakeManager, Describing, InterruptedByMessage])
async def test_a_good_manager_passes(kind) -> None:
    async with FakeProvider() as provider:

        async def launch():
            info, manager = await provider.launch("kernel")
            return info, kind(manager.kernel)

        await check_kernel_manager(launch)


async def test_a_launch_that_fails_violates_a_requirement() -> None:
    async def launch():
        raise OSError("no processes today")

    with pytest.raises(AssertionError, match="starts a kernel: it raised OSError"):
        await check_kernel_manager(launch)


@pytest.mark.parametrize(("transport", "interrupt_mode"), [("tcp", "signal"), ("ipc", "message")])
async def test_our_own_manager(no_leaks, transport, interrupt_mode) -> None:
    launches = itertools.count(1)

    async def launch():
        next(launches)
        return await launcher.launch(
            LaunchPlan(
                argv=(sys.executable, "-c", "import signal; signal.pause()", "{connection_file}"),
                transport=transport,
                interrupt_mode=interrupt_mode,
            )
        )

    await check_kernel_manager(launch)
    assert next(launches) > 10
