from __future__ import annotations

import os
import resource
import sys
import uuid
from functools import partial
from pathlib import Path

import anyio
import pytest

from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelExitedEarly,
    KernelNotReady,
    LaunchError,
    RemoteProtocolError,
)
from kernelproto.interfaces import KernelManager
from kernelproto.launch import launcher as module
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.launch.leftovers.watchdog import _Watchdog
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.transport import registration
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
FOR_EVER = "import signal; signal.pause()"


async def launch(code: str, **options):
    """Launch a kernel that is a piece of Python code."""
    argv = (sys.executable, "-c", code, "{connection_file}", "{kernel_id}", "{other}")
    _, manager = await module.launch(LaunchPlan(argv=argv, **options))
    return manager


async def run_script(script: str, **options):
    """Launch a kernel that is a shell script."""
    argv = ("/bin/sh", "-c", script, "{connection_file}")
    _, manager = await module.launch(LaunchPlan(argv=argv, **options))
    return manager


async def wait(manager: KernelManager) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await manager.wait()


async def test_environment_and_working_directory(tmp_path) -> None:
    manager = await launch(
        "import os; print(os.environ['JPY_PARENT_PID'], os.environ['A'], os.getcwd())",
        env={"A": "1", "JPY_PARENT_PID": "5"},
        cwd=str(tmp_path),
    )
    assert await wait(manager) == 0
    assert manager.output_tail() == f"{os.getpid()} 1 {tmp_path}\n"
    await manager.cleanup()


async def test_values_are_filled_in_but_never_those_of_the_launch() -> None:
    manager = await launch("", values={"other": "{kernel_id}", "connection_file": "elsewhere"})
    assert manager.command[-3:] == (manager.connection_file, manager.kernel_id, "{kernel_id}")
    await manager.cleanup()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("command", ["no-such-command", "./kernel", "/", "./kernel/kernel"])
async def test_command_that_cannot_be_run(
    resources, runtime_dir, tmp_path, transport, command
) -> None:
    tmp_path.joinpath("kernel").touch(mode=0o600)
    before = resources()
    plan = LaunchPlan(argv=(command, "a b"), cwd=str(tmp_path), transport=transport)
    with pytest.raises(KernelExitedEarly, match=f"{command}.*installed, executable") as caught:
        await module.launch(plan)
    assert caught.value.command == (command, "a b")
    assert caught.value.returncode is None
    assert "'a b'" in str(caught.value)
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []


async def test_command_is_looked_for_on_the_path_of_the_kernel(tmp_path) -> None:
    tmp_path.joinpath("kernel").symlink_to("/bin/sh")
    _, manager = await module.launch(
        LaunchPlan(argv=("kernel", "-c", "exit 3"), env={"PATH": str(tmp_path)})
    )
    assert await wait(manager) == 3
    await manager.cleanup()


async def test_working_directory_that_does_not_exist(runtime_dir, tmp_path) -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"working directory .*missing"):
        await launch(FOR_EVER, cwd=str(tmp_path / "missing"))
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("options", [{"env": {"A=B": "1"}}, {"values": {"other": "\0"}}])
async def test_invalid_arguments_and_variables(runtime_dir, options) -> None:
    with pytest.raises(InvalidLaunchParameter, match="cannot be run"):
        await launch(FOR_EVER, **options)
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
@pytest.mark.parametrize("step", ["OutputTail", "ProcessGroup"])
async def test_nothing_is_left_of_a_failure(
    resources, runtime_dir, monkeypatch, step, error
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(module, step, fail)
    before = resources()
    with pytest.raises(LaunchError, match=r"no file descriptors are left|no thread"):
        await launch(FOR_EVER)
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []


async def test_no_connection_file(runtime_dir, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", os.devnull)
    with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR"):
        await launch(FOR_EVER)


async def test_cancelled_launch_has_made_nothing(resources, runtime_dir) -> None:
    before = resources()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await launch(FOR_EVER)
    assert scope.cancelled_caught
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []


async def test_many_kernels_at_once(runtime_dir) -> None:
    managers = []

    async def start() -> None:
        managers.append(await launch(FOR_EVER))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(start)
    infos = [manager.connection_info for manager in managers]
    ports = [port for info in infos for port in (info.shell_port, info.iopub_port, info.hb_port)]
    assert len(set(ports)) == len(ports)
    async with anyio.create_task_group() as tasks:
        for manager in managers:
            tasks.start_soon(manager.cleanup)
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_record_from_the_first_to_the_last(transport, runtime_dir) -> None:
    manager = await run_script("sleep 1000", transport=transport, kernel_type="spec/one")
    (record,) = read_records()
    assert record.kernel_id == manager.kernel_id
    assert record.kernel_name == "spec/one"
    assert record.command == manager.command
    assert record.connection_file == manager.connection_file
    folder = os.path.dirname(manager.connection_info.ip) if transport == "ipc" else None
    assert record.socket_folder == folder
    assert record.process == ProcessId.of(manager.pid)
    assert record.owner == ProcessId.of(os.getpid())
    assert not record.detached
    await manager.kill()
    await wait(manager)
    assert read_records() == [record]
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []


async def test_environment_of_the_kernel() -> None:
    manager = await run_script("echo $JPY_PARENT_PID $KERNELPROTO_KERNEL_ID", env={})
    await wait(manager)
    assert manager.output_tail() == f"{os.getpid()} {manager.kernel_id}\n"
    await manager.cleanup()


async def test_environment_of_a_detached_kernel(tmp_path) -> None:
    manager = await run_script(
        "echo $JPY_PARENT_PID $KERNELPROTO_KERNEL_ID",
        env={"JPY_PARENT_PID": "7"},
        detached=True,
        output=str(tmp_path / "out"),
    )
    assert _Watchdog.current is None
    (record,) = read_records()
    assert record.detached
    assert record.output == str(tmp_path / "out")
    await wait(manager)
    assert manager.output_tail() == f"{manager.kernel_id}\n"
    await manager.cleanup()


async def test_detached_kernel_can_write_for_ever() -> None:
    manager = await run_script("echo lost && sleep 1000", detached=True)
    target = os.readlink(f"/proc/{manager.pid}/fd/1")
    assert target == os.readlink(f"/proc/{manager.pid}/fd/2") == os.devnull
    assert manager.output_tail() == ""
    await manager.cleanup()


async def test_output_of_a_detached_kernel_goes_to_a_file(tmp_path) -> None:
    with pytest.raises(InvalidLaunchParameter, match="detached"):
        await run_script("true", detached=True, output=print)
    with pytest.raises(InvalidLaunchParameter, match="valid UTF-8"):
        await run_script("true", detached=True, output=str(tmp_path / "\udce9"))
    with open(tmp_path / "out", "wb") as file:  # noqa: ASYNC230
        manager = await run_script("echo hello", detached=True, output=file)
    await wait(manager)
    await manager.cleanup()
    assert tmp_path.joinpath("out").read_text() == "hello\n"


async def test_output_is_passed_on() -> None:
    received = bytearray()
    script = "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done; echo end >&2"
    manager = await run_script(script, output=received.extend)
    await wait(manager)
    await manager.cleanup()
    assert received.decode().split() == [*map(str, range(5000)), "end"]
    assert manager.output_tail() == received.decode()


async def test_output_is_nothing_to_write_to(runtime_dir) -> None:
    with pytest.raises(InvalidLaunchParameter, match="'output'"):
        await run_script("true", output=1.5)
    assert list(runtime_dir.iterdir()) == []


async def test_arguments_that_are_no_text() -> None:
    name = os.fsdecode(b"\xff")
    _, manager = await module.launch(LaunchPlan(argv=("/bin/echo", name)))
    await wait(manager)
    assert manager.output_tail() == "\ufffd\n"
    assert manager.command == ("/bin/echo", "\ufffd")
    await manager.cleanup()


async def test_record_cannot_be_written(runtime_dir, resources) -> None:
    obstacle = runtime_dir / "kernelproto"
    obstacle.touch()
    before = resources()
    with pytest.raises(LaunchError, match="record"):
        await run_script("sleep 1000")
    assert resources() == before
    assert list(runtime_dir.iterdir()) == [obstacle]
    obstacle.unlink()


@pytest.mark.parametrize("step", ["limits", "record"])
async def test_nothing_is_left_when_the_last_step_fails(
    step, runtime_dir, resources, monkeypatch
) -> None:
    pids: list[int] = []

    def note(limits: Limits, pid: int) -> None:
        pids.append(pid)
        if step == "limits":
            raise InvalidLaunchParameter("no")
        Path(read_records()[0].path + ".new").touch()  # makes writing the record fail

    monkeypatch.setattr(Limits, "apply", note)
    before = resources()
    with pytest.raises(LaunchError):
        await run_script("sleep 1000", limits=Limits(memory=2**40))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert resources() == before
    for file in [*runtime_dir.rglob("*.new")]:
        file.unlink()
        file.parent.rmdir()
    assert list(runtime_dir.iterdir()) == []


async def test_limits_are_checked_first(monkeypatch, runtime_dir) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidLaunchParameter, match="on Linux only"):
        await run_script("true", limits=Limits(memory=2**40))
    assert list(runtime_dir.iterdir()) == []


async def test_kernel_is_limited() -> None:
    manager = await run_script("sleep 1000", limits=Limits(open_files=77))
    assert resource.prlimit(manager.pid, resource.RLIMIT_NOFILE) == (77, 77)
    await manager.cleanup()


async def test_watchdog_is_told_before_the_number_goes_free(monkeypatch) -> None:
    seen: list[str] = []
    group_ended = module.Watch.group_ended

    def note(self: module.Watch) -> None:
        with open(f"/proc/{self._kernel.group}/stat") as stat:
            seen.append(stat.read().rpartition(")")[2].split()[0])
        group_ended(self)

    monkeypatch.setattr(module.Watch, "group_ended", note)
    manager = await run_script("exit 0")
    await wait(manager)
    assert seen == ["Z"]
    assert manager._watch._kernel.group == 0
    await manager.cleanup()
    assert _Watchdog.kernels == {}


# The beginning of a kernel that registers. It has no channels.
REGISTRATION = """
import hashlib, hmac, json, os, signal, sys, zmq

FILE = json.load(open(sys.argv[1]))
CONTEXT = zmq.Context()
PORTS = {name + "_port": str(port) for port, name in enumerate(
    ["shell", "iopub", "stdin", "control", "hb"], 50_001)}

def connect():
    socket = CONTEXT.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.connect(f"tcp://{FILE['registration_ip']}:{FILE['registration_port']}")
    return socket

def sign(content, key=FILE["key"]):
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest().encode()

def message(key=FILE["key"], **fields):
    content = json.dumps({"kernel_id": FILE["kernel_id"], **PORTS, **fields}).encode()
    return [b"<IDS|MSG>", sign(content, key), content]

def register(socket):
    socket.send_multipart(message())
    delimiter, signature, content = socket.recv_multipart()
    print("acknowledged:", signature == sign(content), flush=True)
"""

REGISTERED = {"shell": 50_001, "iopub": 50_002, "stdin": 50_003, "control": 50_004, "hb": 50_005}

HOSTILE = """
registration = message()
attacks = [
    [b""],
    [b"<IDS|MSG>"],
    [os.urandom(100) for _ in range(100)],
    [b"<IDS|MSG>", b"", b"{}"],
    message(key="another"),
    message(shell_port="666")[:2] + registration[2:],
    registration[:2] + message(shell_port="666")[2:],
    message(kernel_id="another"),
    message(shell_port="70000"),
    message(shell_port=None),
    [b"<IDS|MSG>", sign(b"[" * 10_000), b"[" * 10_000],
    [b"x" * 100_000],
]
# A libzmq that closes a socket amid a message whose receiver has hung up aborts the process.
strangers = []
for number, attack in enumerate(attacks * 100):
    if number % 100 == 0:
        strangers.append(connect())
    strangers[-1].send_multipart(attack)
register(connect())
os._exit(0)
"""


class TestRegistration:
    """A kernel that chooses its ports."""

    @pytest.mark.parametrize("encrypted", [True, False])
    async def test_connection_file_takes_the_place_of_the_registration_file(
        self, runtime_dir, encrypted
    ) -> None:
        code = REGISTRATION + "register(connect()); print(sorted(FILE))"
        manager = await launch(code, registers=True, encrypted=encrypted, kernel_type="spec/one")
        info = manager.connection_info
        assert {name: info.port(name) for name in CHANNEL_NAMES} == REGISTERED
        assert (info.ip, info.kernel_name, info.encrypted) == ("127.0.0.1", "spec/one", encrypted)
        assert os.stat(manager.connection_file).st_mode & 0o777 == 0o600
        assert read_connection_file(manager.connection_file) == info
        assert await wait(manager) == 0
        acknowledged, keys = manager.output_tail().splitlines()
        assert acknowledged == "acknowledged: True"
        assert ("curve_secretkey" in keys) is encrypted
        assert "shell_port" not in keys
        await manager.cleanup()
        assert list(runtime_dir.iterdir()) == []

    async def test_hostile_input_changes_nothing(self, caplog) -> None:
        code = REGISTRATION + HOSTILE
        with anyio.fail_after(GUARD_SECONDS):
            manager = await launch(code, registers=True)
        info = manager.connection_info
        assert {name: info.port(name) for name in CHANNEL_NAMES} == REGISTERED
        assert await wait(manager) == 0
        assert manager.output_tail() == "acknowledged: True\n"
        await manager.cleanup()
        assert len(caplog.records) == 1
        assert info.key not in caplog.text

    async def test_kernel_that_ends_instead_is_told_at_once(self, resources, runtime_dir) -> None:
        before = resources()
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelExitedEarly) as caught:
            await launch("import sys; sys.exit('no shell_port')", registers=True)
        assert caught.value.returncode == 1
        assert caught.value.stderr == "no shell_port\n"
        assert "no shell_port" in str(caught.value)
        assert resources() == before
        assert list(runtime_dir.iterdir()) == []

    async def test_kernel_that_never_registers(self, resources, runtime_dir, monkeypatch) -> None:
        monkeypatch.setattr(module, "_REGISTRATION_SECONDS", 0.01)
        before = resources()
        with pytest.raises(KernelNotReady, match="kernel_protocol_version") as caught:
            await launch(FOR_EVER, registers=True)
        assert caught.value.phase == "registration"
        assert resources() == before
        assert list(runtime_dir.iterdir()) == []

    async def test_error_comes_before_the_callers_deadline(self, runtime_dir, monkeypatch) -> None:
        monkeypatch.setattr(module, "_MARGIN_SECONDS", GUARD_SECONDS - 0.01)
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelNotReady, match="registration"):
            await launch(FOR_EVER, registers=True)
        assert list(runtime_dir.iterdir()) == []

    async def test_cancelled_while_it_is_waited_for(self, resources, runtime_dir, mailbox) -> None:
        before = resources()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    partial(launch, f"{mailbox.script('1')}; {FOR_EVER}", registers=True)
                )
                await mailbox.receive()
                scope.cancel()
        assert scope.cancelled_caught
        assert resources() == before
        assert list(runtime_dir.iterdir()) == []

    async def test_command_that_cannot_be_run(self, resources, runtime_dir) -> None:
        before = resources()
        with pytest.raises(KernelExitedEarly, match="no-such-command"):
            await module.launch(LaunchPlan(argv=("no-such-command",), registers=True))
        assert resources() == before
        assert list(runtime_dir.iterdir()) == []

    async def test_connection_file_that_cannot_be_written(self, resources, runtime_dir) -> None:
        code = "os.mkdir(sys.argv[1] + '.new'); register(connect()); signal.pause()"
        before = resources()
        with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR"):
            await launch(REGISTRATION + code, registers=True)
        (draft,) = runtime_dir.iterdir()
        draft.rmdir()
        assert resources() == before

    async def test_nowhere_to_listen(self, runtime_dir, monkeypatch) -> None:
        monkeypatch.setattr(registration, "LOOPBACK", "192.0.2.1")  # an address of no machine
        with pytest.raises(LaunchError, match="cannot listen for the registration"):
            await launch(FOR_EVER, registers=True)
        assert list(runtime_dir.iterdir()) == []

    async def test_ipc_needs_none(self) -> None:
        manager = await launch(FOR_EVER, registers=True, transport="ipc")
        assert manager.connection_info.transport == "ipc"
        await manager.cleanup()

    async def test_many_at_once(self, runtime_dir) -> None:
        managers = []

        async def start_one() -> None:
            code = REGISTRATION + "register(connect()); signal.pause()"
            managers.append(await launch(code, registers=True))

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(start_one)
        assert len({manager.connection_info.key for manager in managers}) == 8
        async with anyio.create_task_group() as tasks:
            for manager in managers:
                tasks.start_soon(manager.cleanup)
        assert list(runtime_dir.iterdir()) == []


async def test_connection_file_of_the_caller(runtime_dir, tmp_path) -> None:
    given = tmp_path / "given.json"
    info = ConnectionInfo(shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5)
    given.write_bytes(info.to_json())
    launched, manager = await module.launch(
        LaunchPlan(
            argv=(sys.executable, "-c", FOR_EVER, "{connection_file}"), connection_file=str(given)
        )
    )
    assert launched == info == read_connection_file(f"kernel-{manager.kernel_id}.json")
    assert manager.connection_file == manager.command[-1] == str(given)
    await manager.cleanup()
    assert given.exists()


async def test_kernel_has_the_id_in_the_name_of_a_connection_file(runtime_dir) -> None:
    kernel_id = str(uuid.uuid4())
    given = runtime_dir / f"kernel-{kernel_id}.json"
    info = ConnectionInfo(shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5)
    given.write_bytes(info.to_json())
    for _ in range(2):  # as in a restart
        manager = await launch(FOR_EVER, connection_file=str(given))
        assert manager.kernel_id == kernel_id
        assert [record.connection_file for record in read_records()] == [str(given)]
        await manager.cleanup()
        assert given.exists()
    given.unlink()


async def test_connection_file_of_the_caller_is_not_valid(runtime_dir, tmp_path) -> None:
    given = tmp_path / "given.json"
    with pytest.raises(DiscoveryError):
        await launch("", connection_file=str(given))
    given.write_text("{}")
    with pytest.raises(RemoteProtocolError):
        await launch("", connection_file=str(given))
    assert list(runtime_dir.iterdir()) == []


async def test_environment_that_the_kernel_inherits(monkeypatch) -> None:
    monkeypatch.setenv("B", "not inherited")
    manager = await launch(
        "import os; print(os.environ['A'], 'B' in os.environ)", inherited={"A": "${B}"}
    )
    assert await wait(manager) == 0
    assert manager.output_tail() == "${B} False\n"
    await manager.cleanup()
