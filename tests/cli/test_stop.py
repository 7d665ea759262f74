"""``ps`` and ``stop``, with kernels that run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kernelproto import (
    BlockingKernel,
    run_kernel_blocking,
    start_kernel_blocking,
)
from kernelproto.cli.errors import CliError
from kernelproto.cli.inventory import RunningKernel, find_running_kernels
from kernelproto.cli.main import main
from kernelproto.cli.stop import choose
from kernelproto.launch.leftovers.records import Record
from kernelproto.launch.process.process_id import ProcessId

GUARD_SECONDS = 60


def kernel(kernel_id: str, **about: object) -> RunningKernel:
    defaults: dict[str, object] = {
        "kernel_type": "python3",
        "connection_file": f"/runtime/kernel-{kernel_id}.json",
        "started": 1000.0,
        "process": None,
        "memory": None,
        "record": None,
        "state": "alive",
    }
    return RunningKernel(kernel_id=kernel_id, **(defaults | about))


def test_kernels_of_the_same_id_are_two(runtime_dir: Path, capsys) -> None:
    for _ in range(2):
        record = Record.of_launch(str(uuid.uuid4()))
        record.reserve()
        gone = ProcessId(os.getpid(), "1", record.owner.machine)
        msgspec.structs.replace(record, listed_as="same", owner=gone, process=gone).write()
        Path(record.connection_file).touch()
    assert main(["stop", "same"]) == 1
    assert "'same' matches several kernels: same, same" in capsys.readouterr().err
    assert main(["stop", "--all"]) == 0
    assert capsys.readouterr().out == "same: already dead, files removed\n" * 2
    assert list(runtime_dir.iterdir()) == []


def test_names_of_a_kernel() -> None:
    here = ProcessId.of(os.getpid())
    kernels = [kernel("abc"), kernel("abd", process=here), kernel("ab")]
    for name in ("abd", str(here.pid), "/runtime/kernel-abd.json", "kernel-abd.json"):
        assert choose(name, kernels) is kernels[1]
    assert choose("ab", kernels) is kernels[2]  # all of it goes before a beginning
    with pytest.raises(CliError, match="'a' matches several kernels: abc, abd, ab"):
        choose("a", kernels)
    with pytest.raises(CliError, match="no running kernel matches ''"):
        choose("", kernels)


@pytest.fixture
def strangers_kernel(runtime_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a kernel as a program does that is not kernelproto."""
    path = runtime_dir / "kernel-strange.json"
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + GUARD_SECONDS
        while not (path.exists() and path.read_text().endswith("}")):
            assert time.monotonic() < deadline
            assert process.poll() is None
        yield process
        process.kill()


def listed(capsysbinary) -> dict[str, dict[str, object]]:
    assert main(["ps", "--json"]) == 0
    return {entry["kernel_id"]: entry for entry in json.loads(capsysbinary.readouterr().out)}


def test_kernels_of_all_kinds(
    strangers_kernel: subprocess.Popen[bytes], runtime_dir: Path, capsysbinary
) -> None:
    (runtime_dir / "kernel-dead.json").write_text("{}")
    detached = start_kernel_blocking("pyimport/kernel", detached=True)
    with run_kernel_blocking("pyimport/kernel") as ours:
        kernels = listed(capsysbinary)
        assert set(kernels) == {"strange", "dead", detached.kernel_id, ours.kernel_id}
        states = {name: about["state"] for name, about in kernels.items()}
        assert states.pop("dead") == "dead"
        assert set(states.values()) == {"alive"}
        assert kernels["strange"]["pid"] == strangers_kernel.pid
        assert kernels[ours.kernel_id]["kernel_type"] == "pyimport/kernel"
        assert kernels[ours.kernel_id]["owner"] == os.getpid()
        assert kernels[detached.kernel_id]["detached"] is True
        assert all(kernels[name]["memory"] > 2**20 for name in states)
        assert main(["ps"]) == 0
        table = capsysbinary.readouterr().out.decode()
        assert f"process {os.getpid()}" in table
        assert f"host {kernels[detached.kernel_id]['owner']} (detached)" in table
        assert "another program" in table

        names = ["dead", "strange", detached.kernel_id[:8]]
        assert main(["stop", *names]) == 0
        assert capsysbinary.readouterr().out.decode().splitlines() == [
            "dead: already dead, files removed",
            "strange: stopped",
            f"{detached.kernel_id}: stopped",
        ]
        assert strangers_kernel.wait(GUARD_SECONDS) == 0
        assert set(listed(capsysbinary)) == {ours.kernel_id}
    detached.detach()
    assert find_running_kernels() == []


@pytest.mark.parametrize("host", [False, None])
def test_kept_kernels(host: bool | None, runtime_dir: Path, capsys) -> None:
    def start_detached() -> BlockingKernel:
        return start_kernel_blocking("pyimport/kernel", detached=True, host=host)

    kept = start_detached()
    kernel_id = kept.kernel_id
    kept.detach()
    used = start_detached()
    with run_kernel_blocking("pyimport/kernel") as ours:
        assert main(["stop", "--kept"]) == 0
        assert capsys.readouterr().out == f"{kernel_id}: stopped\n"
        left = {each.kernel_id for each in find_running_kernels()}
        assert left == {ours.kernel_id, used.kernel_id}
        assert main(["stop", "--kept"]) == 0
        assert capsys.readouterr().err == "No kernels are running.\n"
        assert main(["stop", "--kept", "--all"]) == 1
    used.shutdown()


def test_kernel_that_does_not_answer(
    strangers_kernel: subprocess.Popen[bytes], monkeypatch, capsys
) -> None:
    os.kill(strangers_kernel.pid, signal.SIGSTOP)
    monkeypatch.setattr("kernelproto.cli.inventory._HEARTBEAT_SECONDS", 0.1)
    assert main(["ps"]) == 0
    assert "silent" in capsys.readouterr().out

    assert main(["stop", "--all"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "error: strange: the kernel does not shut down; use --force to kill it\n",
    )
    assert main(["stop", "--all", "--force"]) == 0
    assert capsys.readouterr().out == "strange: killed\n"
    assert strangers_kernel.wait(GUARD_SECONDS) == -signal.SIGKILL


def test_client_is_not_taken_for_the_kernel(runtime_dir: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.cli.inventory._HEARTBEAT_SECONDS", 0.1)
    path = runtime_dir / "kernel-gone.json"
    ports = {f"{channel}_port": 1 for channel in ("shell", "iopub", "stdin", "control", "hb")}
    path.write_text(json.dumps(ports))
    command = [sys.executable, "-c", "import time; time.sleep(1000)", "--existing", str(path)]
    with subprocess.Popen(command, start_new_session=True) as client:
        assert main(["stop", "--all", "--force"]) == 1
        assert f"process {client.pid} may not be this kernel" in capsys.readouterr().err
        assert client.poll() is None
        client.kill()


def test_process_in_a_record_that_is_not_the_kernel(runtime_dir: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.cli.inventory._HEARTBEAT_SECONDS", 0.1)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        record = Record.of_launch(str(uuid.uuid4()))
        record.reserve()
        record.of_process(ProcessId.of(stranger.pid)).write()
        Path(record.connection_file).write_text("{}")
        assert main(["stop", "--all", "--force"]) == 1
        assert f"process {stranger.pid} may not be this kernel" in capsys.readouterr().err
        gone = ProcessId(os.getpid(), "1", record.owner.machine)
        msgspec.structs.replace(record, owner=gone).of_process(ProcessId.of(stranger.pid)).write()
        assert main(["stop", "--all", "--force"]) == 1
        assert stranger.poll() is None
        assert Path(record.connection_file).exists()
        stranger.kill()


def test_nothing_runs(capsys) -> None:
    assert main(["ps"]) == 0
    assert capsys.readouterr() == ("", "No kernels are running.\n")
    assert main(["stop", "--all"]) == 0
    assert capsys.readouterr() == ("", "No kernels are running.\n")
