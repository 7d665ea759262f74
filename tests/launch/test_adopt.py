from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto.exceptions import DiscoveryError, KernelInUse
from kernelproto.interfaces import KernelHandle
from kernelproto.launch import launcher
from kernelproto.launch.adopt import LocalHost, adopt_local, find_record
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.leftovers import records
from kernelproto.launch.leftovers.records import Record, read_records
from kernelproto.launch.local import LocalKernelManager
from kernelproto.launch.process.proc import children, command_line
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs import watchdog
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.testing import check_adoption, check_kernel_manager

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "clean")]

GUARD_SECONDS = 60

PROGRAM = """
import anyio, os, sys
from kernelproto.launch import launcher
from kernelproto.launch.spec.plan import LaunchPlan

async def main():
    script, output, detached = sys.argv[1:]
    plan = LaunchPlan(
        argv=("/bin/sh", "-c", script, "{connection_file}"),
        kernel_type="spec/one",
        transport="ipc",
        detached=bool(detached),
        output=output or None,
    )
    _, manager = await launcher.launch(plan)
    print(manager.kernel_id, flush=True)
    if not detached:
        sys.stdin.read()

anyio.run(main)
"""


ADOPTER = """
import anyio, sys
from kernelproto.exceptions import KernelInUse
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.adopt import LocalHost, adopt_local, find_record

async def main():
    record = find_record(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "adopt":
                try:
                    _, manager = await adopt_local(record)
                except KernelInUse as error:
                    print("refused", error.pid, flush=True)
                else:
                    print("adopted", flush=True)
            case "detach":
                await manager.detach()
                print("detached", flush=True)

anyio.run(main)
"""


class Adopter:
    """A program that adopts a kernel when asked to."""

    def __init__(self, kernel_id: str) -> None:
        command = [sys.executable, "-c", ADOPTER, kernel_id]
        self.program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.program.pid
        assert self.hear() == "ready"

    def tell(self, order: str) -> None:
        print(order, file=self.program.stdin, flush=True)

    def hear(self) -> str:
        return self.program.stdout.readline().strip()

    def ask(self, order: str) -> str:
        self.tell(order)
        return self.hear()

    def kill(self) -> None:
        with self.program as program:
            program.kill()


@pytest.fixture
def adopter() -> Iterator[Callable[[str], Adopter]]:
    """Give a function that starts a program which adopts a kernel."""
    started: list[Adopter] = []

    def start(kernel_id: str) -> Adopter:
        started.append(Adopter(kernel_id))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def start() -> Callable[..., str]:
    """Give a function that has another program start a detached kernel, and end."""

    def run(script: str = "sleep 1000", output: str = "") -> str:
        command = [sys.executable, "-c", PROGRAM, script, output, "detached"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    return run


async def adopt(kernel_id: str) -> LocalKernelManager:
    _, manager = await adopt_local(find_record(kernel_id))
    return manager


async def wait(manager: LocalKernelManager) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await manager.wait()


async def test_kernel_of_another_program(start, runtime_dir, tmp_path) -> None:
    kernel_id = start("echo hello; sleep 1000", str(tmp_path / "out"))
    record = find_record(kernel_id)
    info, manager = await adopt_local(record)
    assert manager.kernel_id == kernel_id
    assert manager.connection_info == info
    assert find_record(info) == find_record(manager.connection_file) == record
    assert manager.command[:2] == ("/bin/sh", "-c")
    assert manager.detached
    assert await manager.is_alive()
    while manager.output_tail() != "hello\n":
        await anyio.lowlevel.checkpoint()
    await manager.terminate()
    assert await wait(manager) is None
    assert not await manager.is_alive()
    assert manager.returncode is None
    assert manager.death_reason() is None
    assert not manager.address_was_taken()
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("method", ["interrupt", "terminate", "kill"])
async def test_signals_reach_the_group(start, mailbox, method, until_gone) -> None:
    manager = await adopt(start(f"sh -c 'echo $$ > {mailbox.path}; exec sleep 1000'; sleep 1000"))
    child_pid = int(await mailbox.receive())
    await getattr(manager, method)()
    until_gone(child_pid)
    await manager.cleanup()
    await getattr(manager, method)()


async def test_processes_that_outlive_it_are_killed(start, mailbox, until_gone) -> None:
    script = f"sh -c 'echo $$ > {mailbox.path}; sleep 1000' & read x < {mailbox.path}.go"
    os.mkfifo(f"{mailbox.path}.go")
    manager = await adopt(start(script))
    straggler = int(await mailbox.receive())
    with open(f"{mailbox.path}.go", "w"):  # noqa: ASYNC230
        pass
    assert await wait(manager) is None
    until_gone(straggler)
    await manager.cleanup()


async def test_release(start, resources) -> None:
    kernel_id = start()
    before = resources()
    manager = await adopt(kernel_id)
    await manager.detach()
    await manager.cleanup()
    assert resources() == before
    manager = await adopt(kernel_id)
    assert await manager.is_alive()
    await manager.cleanup()
    assert resources() == before


async def test_kernel_that_has_ended(start, mailbox, until_gone) -> None:
    record = find_record(start())
    os.kill(record.process.pid, signal.SIGKILL)
    until_gone(record.process.pid)
    with pytest.raises(DiscoveryError, match="has ended"):
        await adopt_local(record)
    with pytest.raises(DiscoveryError, match="has ended"):
        await adopt_local(msgspec.structs.replace(record, process=None))


async def test_number_of_another_process(start, monkeypatch) -> None:
    record = find_record(start())
    gone = iter([False, True, True, True])
    with monkeypatch.context() as patch:
        patch.setattr(ProcessId, "is_gone", property(lambda process: next(gone)))
        with pytest.raises(DiscoveryError, match="has just ended"):
            await adopt_local(record)


@pytest.mark.parametrize(
    ("error", "words"),
    [(ProcessLookupError(), "has just ended"), (OSError(38, "Not there"), "on this system")],
)
async def test_no_descriptor_for_the_process(start, monkeypatch, error, words) -> None:
    def pidfd_open(pid: int) -> int:
        raise error

    record = find_record(start())
    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", pidfd_open)
        with pytest.raises(DiscoveryError, match=words):
            await adopt_local(record)


@pytest.mark.parametrize("free", [0, 1])
async def test_too_few_descriptors_to_adopt_it(start, few_descriptors, free) -> None:
    record = find_record(start())
    with few_descriptors(free), pytest.raises(DiscoveryError, match=r"Too many|no file descr"):
        await adopt_local(record)
    manager = await adopt(record.kernel_id)
    await manager.cleanup()


async def test_kernel_of_another_machine(start) -> None:
    record = find_record(start())
    machine = msgspec.structs.replace(record.process.machine, host="elsewhere", boot="another")
    process = msgspec.structs.replace(record.process, machine=machine)
    with pytest.raises(DiscoveryError, match="another machine, 'elsewhere'"):
        await adopt_local(msgspec.structs.replace(record, process=process))


async def test_kernel_that_belongs_to_a_program() -> None:
    command = [sys.executable, "-c", PROGRAM, "sleep 1000", "", ""]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        record = find_record(program.stdout.readline().strip())
        with pytest.raises(DiscoveryError, match=f"belongs to process {program.pid}"):
            await adopt_local(record)


async def test_kernel_has_one_owner(start, adopter) -> None:
    kernel_id = start()
    one, other = adopter(kernel_id), adopter(kernel_id)
    assert one.ask("adopt") == "adopted"
    assert other.ask("adopt") == f"refused {one.pid}"
    assert one.ask("adopt") == f"refused {one.pid}"
    with pytest.raises(KernelInUse, match=f"belongs to process {one.pid}, which runs") as caught:
        await adopt(kernel_id)
    assert caught.value.pid == one.pid
    assert one.ask("detach") == "detached"
    assert other.ask("adopt") == "adopted"
    assert one.ask("adopt") == f"refused {other.pid}"
    other.kill()
    manager = await adopt(kernel_id)
    assert await manager.is_alive()
    with pytest.raises(KernelInUse, match=f"process {os.getpid()}, which is this program"):
        await adopt(kernel_id)
    assert one.ask("adopt") == f"refused {os.getpid()}"
    await manager.cleanup()


async def test_program_that_starts_a_detached_kernel_owns_it(runtime_dir) -> None:
    plan = LaunchPlan(argv=("sleep", "1000"), detached=True)
    _, manager = await launcher.launch(plan)
    with pytest.raises(KernelInUse, match="which is this program"):
        await adopt(manager.kernel_id)
    await manager.detach()
    manager = await adopt(manager.kernel_id)
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []


def test_programs_that_adopt_at_once(start, adopter) -> None:
    kernel_id = start()
    adopters = [adopter(kernel_id) for _ in range(4)]
    for _ in range(20):
        for each in adopters:
            each.tell("adopt")
        answers = [each.hear() for each in adopters]
        owner = adopters[answers.index("adopted")]
        assert answers.count(f"refused {owner.pid}") == 3
        assert owner.ask("detach") == "detached"


async def test_next_start_leaves_an_adopted_kernel_alone(monkeypatch) -> None:
    command = [sys.executable, "-c", PROGRAM, "sleep 1000", "", ""]
    with subprocess.Popen(  # noqa: ASYNC220
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        record = find_record(program.stdout.readline().strip())
        (watchdog_pid,) = [
            pid
            for pid in children(program.pid)
            if os.fsencode(watchdog.__file__) in command_line(pid)
        ]
        os.kill(watchdog_pid, signal.SIGKILL)
        program.kill()
    manager = await adopt(record.kernel_id)
    monkeypatch.setattr(records, "_swept", set())
    records.sweep()
    assert await manager.is_alive()
    await manager.cleanup()


async def test_record_is_on_a_full_disk(start, monkeypatch) -> None:
    def full(target: str, path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    record = find_record(start())
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", full)
        with pytest.raises(
            DiscoveryError, match=r"owner of kernel .* no space is left on the disk"
        ):
            await adopt_local(record)
    manager = await adopt(record.kernel_id)
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", full)
        await manager.detach()
    with pytest.raises(KernelInUse, match="which is this program"):
        await adopt(record.kernel_id)


async def test_process_that_is_not_the_kernel(start) -> None:
    record = find_record(start())
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:  # noqa: ASYNC220
        process = ProcessId.of(stranger.pid)
        forged = msgspec.structs.replace(record, process=process)
        forged.write()
        with pytest.raises(DiscoveryError, match=f"{stranger.pid} cannot be identified as"):
            await adopt_local(find_record(record.kernel_id))
        assert stranger.poll() is None
        stranger.kill()
    record.write()


async def test_record_that_others_may_have_written(start, runtime_dir) -> None:
    kernel_id = start()
    runtime_dir.chmod(0o777)
    with pytest.raises(DiscoveryError, match="other users may write to"):
        find_record(kernel_id)
    runtime_dir.chmod(0o700)


async def test_output_that_is_no_regular_file(start, tmp_path) -> None:
    output = tmp_path / "output"
    manager = await adopt(start("sleep 1000", str(output)))
    output.unlink(missing_ok=True)
    os.mkfifo(output)
    assert manager.output_tail() == ""
    await manager.cleanup()
    assert output.exists()


async def test_no_record(runtime_dir) -> None:
    info, manager = await launcher.launch(LaunchPlan(argv=("sleep", "1000")))
    read_records()[0].remove()
    with pytest.raises(DiscoveryError, match="no record"):
        find_record(manager.connection_file)
    with pytest.raises(DiscoveryError, match="no record") as caught:
        find_record(info)
    assert info.key not in str(caught.value)
    with pytest.raises(DiscoveryError, match="no connection file"):
        find_record("missing")
    await manager.cleanup()


async def test_records_without_their_connection_files(start) -> None:
    lost, kept = find_record(start()), find_record(start())
    os.unlink(lost.connection_file)
    info, manager = await adopt_local(kept)
    assert find_record(info) == kept
    with pytest.raises(DiscoveryError, match="connection file"):
        await adopt_local(lost)
    await manager.cleanup()


async def test_conformance(start) -> None:
    async def launch():
        kernel_id = await anyio.to_thread.run_sync(start)
        record: Record = find_record(kernel_id)
        return await adopt_local(msgspec.structs.replace(record, interrupt_mode="message"))

    await check_kernel_manager(launch)


async def launch_detached():
    return await launcher.launch(LaunchPlan(argv=("sleep", "1000"), detached=True))


async def test_adoption_conformance() -> None:
    await check_adoption(LocalHost(), launch_detached)


async def test_handle() -> None:
    _, manager = await launcher.launch(LaunchPlan(argv=("sleep", "1000")))
    assert manager.handle() is None
    await manager.cleanup()
    _, manager = await launch_detached()
    manager.list_as("mine")
    handle = manager.handle()
    assert (handle.host, handle.kernel_id) == ("local", "mine")
    await manager.cleanup()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"place": {}}, "the handle of kernel .* is not valid: .*kernel_id"),
        ({"host": "far"}, "there is no kernel provider 'far'"),
        ({"kernel_id": "another"}, "has ended"),
    ],
)
async def test_wrong_handle(changes, words) -> None:
    _, manager = await launch_detached()
    await manager.detach()
    handle = manager.handle()
    if "kernel_id" in changes:
        changes = {"place": {**handle.place, **changes}}
    wrong = msgspec.structs.replace(handle, **changes)
    with pytest.raises(DiscoveryError, match=words):
        await KernelFinder([]).adopt(wrong)
    _, manager = await KernelFinder([]).adopt(KernelHandle.from_json(handle.to_json()))
    await manager.cleanup()
