"""The program of the host, asked over its socket by hand."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelproto.launch import programs
from kernelproto.launch.host_program import archive, start_host
from kernelproto.launch.programs.host import frames, zmtp
from kernelproto.launch.programs.host.frames import Frame, FrameReader, pack, pack_json

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 30

# A kernel with one channel: it echoes what arrives on shell.
ECHO = """
import sys, zmq, json
info = json.load(open(sys.argv[1]))
shell = zmq.Context.instance().socket(zmq.ROUTER)
shell.bind(f"ipc://{info['ip']}-{info['shell_port']}")
while True:
    shell.send_multipart(shell.recv_multipart())
"""


class Program:
    """A program that is connected to the host."""

    def __init__(self, folder: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(GUARD_SECONDS)
        try:
            self.socket.connect(f"{folder}/socket")
        except BaseException:
            self.socket.close()
            raise
        self.reader = FrameReader(frames.MESSAGE_BYTES)
        self.arrived: list[Frame] = []
        self.number = 0
        self.hello = self.next()

    def next(self) -> Frame:
        while not self.arrived:
            data = self.socket.recv(2**16)
            if not data:
                raise EOFError
            self.arrived += self.reader.feed(data)
        return self.arrived.pop(0)

    def next_of(self, kind: int) -> Frame:
        while (frame := self.next()).kind != kind:
            pass
        return frame

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.sendall(pack_json(frames.REQUEST, {"op": op, **arguments}, number=self.number))
        frame = self.next_of(frames.ANSWER)
        assert frame.number == self.number
        return frame.json()

    def start(self, *argv: str, **arguments: Any) -> dict[str, Any]:
        return self.ask(
            "start",
            **{
                "kernel": str(uuid.uuid4()),
                "claim": "ours",
                "attachment": "a",
                "argv": argv or ["sleep", "1000"],
                "env": {"PATH": os.environ["PATH"]},
                "connection_info": {"key": ""},
                **arguments,
            },
        )

    def is_disconnected(self) -> str:
        """Wait for the end of the connection; return the reason that the host gives."""
        reason = ""
        try:
            while True:
                frame = self.next()
                if frame.kind == frames.CLOSED:
                    reason = frame.json()["error"]["kind"]
        except (EOFError, ConnectionError):
            return reason


@pytest.fixture
def folder() -> Iterator[str]:
    """Give the folder of a host; the host must end with its last connection."""
    above = tempfile.mkdtemp(prefix="kp-")
    folder = os.path.join(above, "host")
    yield folder
    deadline = time.monotonic() + 5
    while os.path.exists(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = [str(path) for path in Path(above).rglob("*")]
    error = Path(folder, "error")
    text = error.read_text() if error.exists() else ""
    shutil.rmtree(above)
    assert left == [], text


@pytest.fixture
def connect(folder: str) -> Iterator[Callable[[], Program]]:
    """Give a function that connects to the host, which is started first."""
    opened: list[Program] = []
    start_host(folder)

    def connect() -> Program:
        opened.append(Program(folder))
        return opened[-1]

    connect()  # with it the host goes on
    yield connect
    connect()
    for each in opened[-1].ask("list")["ok"]["kernels"]:
        opened[-1].ask("end", kernel=each["kernel"], claim="ours")
    for program in opened:
        program.socket.close()


def test_files_are_valid_for_python_3_9() -> None:
    (folder,) = programs.__path__
    names = ["__init__.py", "forked_kernel.py", "reset_signals.py", "watchdog.py"]
    paths = [Path(folder, name) for name in names] + sorted(Path(folder, "host").glob("*.py"))
    for path in paths:
        source = path.read_text()
        ast.parse(source, feature_version=(3, 9))
        assert "from __future__ import annotations" in source or path.name.startswith("__")


def test_host_says_its_version_and_lists_nothing(connect) -> None:
    program = connect()
    assert program.hello == Frame(frames.ANSWER, 0, 0, b'{"ok": {"version": 1}}')
    assert program.ask("list") == {"ok": {"kernels": []}}


def test_archive_is_the_same_program(folder, tmp_path) -> None:
    path = tmp_path / "host.pyz"
    path.write_bytes(archive())
    assert archive() == path.read_bytes()
    subprocess.run([sys.executable, "-I", "-S", path, folder], check=True, cwd="/")
    path.unlink()
    program = Program(folder)
    kernel = str(uuid.uuid4())
    answer = program.start("/bin/sh", "-c", "exit 3", kernel=kernel)
    assert answer["ok"]["pid"]
    assert program.next_of(frames.EXITED).json()["returncode"] == 3
    assert program.ask("end", kernel=kernel)["ok"]["returncode"] == 3
    program.socket.close()


def test_folder_that_others_may_enter_is_refused(folder) -> None:
    os.mkdir(folder, mode=0o755)
    with pytest.raises(Exception, match="chmod 700"):
        start_host(folder)
    os.rmdir(folder)


def test_requests_that_make_no_sense(connect) -> None:
    program = connect()
    kernel = program.start()["ok"]["connection_file"].split("/")[-2]
    bad = {"claim": "ours", "kernel": kernel}
    for op, arguments in [
        ("what", {}),
        ("status", {"more": 1, **bad}),
        ("signal", {"number": 1000, **bad}),
        ("signal", {"number": "9", **bad}),
        ("signal", bad),
        ("linger", {"seconds": -1, **bad}),
        ("linger", {"seconds": "x", **bad}),
        ("attach", {**bad, "claim": "", "attachment": "a"}),
        ("attach", {**bad, "attachment": "a", "after": "x"}),
    ]:
        assert program.ask(op, **arguments)["error"]["kind"] == "bad_request", op
    other = connect()
    for arguments in [
        {"kernel": "../../etc"},
        {"kernel": 5},
        {"claim": ""},
        {"claim": "x" * 1000},
        {"log": {"memory": "much"}},
        {"log": {"other": 1}},
        {"linger": float("nan")},
        {"argv": [1]},
        {"env": {"A": 1}},
        {"env": 5},
        {"argv": []},
    ]:
        assert "error" in other.start(**arguments), arguments
    assert other.ask("status", kernel=str(uuid.uuid4()))["error"]["kind"] == "no_such_kernel"
    assert [each["kernel"] for each in other.ask("list")["ok"]["kernels"]] == [kernel]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frames.header(frames.REQUEST, frames.REQUEST_BYTES + 1),
        frames.header(frames.MESSAGE, 1),
        pack(frames.REQUEST, b"["),
        pack(frames.MESSAGE, b"", number=1),
        pack(frames.ACK, number=1),
        pack(frames.EXITED),
    ],
)
def test_programs_that_break_the_protocol_are_disconnected(connect, data) -> None:
    program = connect()
    program.socket.sendall(data)
    assert program.is_disconnected() == "protocol"
    assert connect().ask("list") == {"ok": {"kernels": []}}


def test_messages_must_be_numbered_and_fit_the_window(connect) -> None:
    for data in [
        pack(frames.MESSAGE, b"x", number=2),
        pack(frames.MESSAGE, b"x", channel=frames.IOPUB, number=1),
        pack(frames.MESSAGE, bytes(2**20), number=1)
        + pack(frames.MESSAGE, bytes(frames.WINDOW_BYTES), number=2),
    ]:
        program = connect()
        program.start()  # it reads nothing
        program.socket.sendall(data)
        assert program.is_disconnected() == "protocol"


def test_program_that_reads_no_answers_is_disconnected(connect) -> None:
    program = connect()
    program.start()
    request = 1000 * pack_json(frames.REQUEST, {"op": "list"})
    program.socket.settimeout(GUARD_SECONDS)

    def ask_for_ever() -> None:
        while True:
            program.socket.sendall(request)

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        ask_for_ever()


def test_messages_pass_both_ways_and_doubles_are_dropped(connect) -> None:
    program = connect()
    kernel = str(uuid.uuid4())
    env = dict(os.environ)
    program.start(sys.executable, "-c", ECHO, "{connection_file}", kernel=kernel, env=env)
    sent = [zmtp.join([b"%d" % number, b"x" * number * 1000]) for number in range(1, 5)]
    for number, message in enumerate(sent, 1):
        for _ in range(2):
            program.socket.sendall(pack(frames.MESSAGE, message, number=number))
    got: list[Frame] = []
    while len(got) < 4:
        got.append(program.next_of(frames.MESSAGE))
    assert [frame.number for frame in got] == [1, 2, 3, 4]
    assert [frame.body for frame in got] == sent
    again = connect()  # which the same owner has opened
    answer = again.ask("attach", kernel=kernel, claim="ours", attachment="a", after=2)
    assert (answer["ok"]["after"], answer["ok"]["lost"]) == (2, 0)
    assert answer["ok"]["passed"][frames.SHELL] == 4
    assert program.is_disconnected() == "replaced"
    assert [again.next().number for _ in range(2)] == [3, 4]


def test_message_to_a_kernel_that_sends_nothing_is_acknowledged(connect) -> None:
    program = connect()
    silent = ECHO.replace("shell.send_multipart(shell.recv_multipart())", "shell.recv_multipart()")
    program.start(sys.executable, "-c", silent, "{connection_file}", env=dict(os.environ))
    for number in (1, 2):
        program.socket.sendall(pack(frames.MESSAGE, zmtp.join([b"x"]), number=number))
        frame = program.next_of(frames.ACK)
        assert (frame.channel, frame.number) == (frames.SHELL, number)


def test_kernels_are_listed_under_the_ids_of_their_records(connect) -> None:
    program = connect()
    kernel = str(uuid.uuid4())
    program.start(kernel=kernel, record={"listed_as": "theirs"})

    def listed() -> list[tuple[str, str]]:
        kernels = program.ask("list")["ok"]["kernels"]
        return [(each["kernel"], each["listed_as"]) for each in kernels]

    assert listed() == [(kernel, "theirs")]
    program.ask("record", kernel=kernel, claim="ours", changes={"listed_as": ""})
    assert listed() == [(kernel, "")]


def test_second_owner_is_refused_while_the_first_is_connected(connect) -> None:
    first, second = connect(), connect()
    kernel = str(uuid.uuid4())
    first.start(kernel=kernel)
    requests = {
        "attach": {"attachment": "b"},
        "status": {},
        "signal": {"number": 9},
        "end": {},
        "linger": {"seconds": 0},
    }
    for op, arguments in requests.items():
        answer = second.ask(op, kernel=kernel, claim="theirs", **arguments)
        assert answer["error"]["kind"] == "in_use"
        assert answer["error"]["owner"] == os.getpid()
    first.socket.close()
    attached = {"error": {}}
    while "error" in attached:
        attached = second.ask("attach", kernel=kernel, claim="theirs", attachment="b")
    assert not attached["ok"]["ended"]
    assert "ok" in second.ask("end", kernel=kernel, claim="theirs")


def test_output_of_a_flood_that_nobody_reads_is_bounded(connect, tmp_path) -> None:
    flood = """
import sys, zmq, json
info = json.load(open(sys.argv[1]))
iopub = zmq.Context.instance().socket(zmq.XPUB)
iopub.sndhwm = 0
iopub.bind(f"ipc://{info['ip']}-{info['iopub_port']}")
iopub.recv()
for number in range(5000):
    iopub.send_multipart([b"topic", str(number).encode(), bytes(2000)])
iopub.send(bytes(300_000))
iopub.send(b"end")
print(sys.argv[2], flush=True)
sys.stdin.read()
iopub.close()
zmq.Context.instance().term()
"""
    program = connect()
    kernel = str(uuid.uuid4())
    program.start(
        sys.executable,
        "-c",
        flood,
        "{connection_file}",
        "x",
        kernel=kernel,
        env=dict(os.environ),
        log={"memory": 2**20, "file": 3 * 2**20, "kept": 0, "largest": 200_000},
    )
    program.socket.close()
    other = connect()
    last = 0
    while last < 5002:
        (about,) = other.ask("list")["ok"]["kernels"]
        last = about["last"]
    files = [path for path in Path(folder_of(other), kernel).iterdir() if "log" in path.name]
    assert sum(path.stat().st_size for path in files) <= 3 * 2**20
    answer = other.ask("attach", kernel=kernel, claim="ours", attachment="a")
    lost = answer["ok"]["lost"]
    assert 2000 < lost < 4000
    numbers = []
    while not numbers or numbers[-1] != 5002:
        frame = other.next()
        numbers.append(frame.number)
    assert numbers == [*range(lost + 1, 5001), 5002]
    assert zmtp.split(frame.body) == [b"end"]


def folder_of(program: Program) -> str:
    return os.path.dirname(str(program.socket.getpeername()))


def test_linger_time_of_a_kernel_that_has_ended(connect) -> None:
    program = connect()
    program.start("/bin/sh", "-c", "exit 1", linger=0.1)
    program.next_of(frames.EXITED)
    program.socket.close()
    other = connect()
    while other.ask("list")["ok"]["kernels"]:
        pass


def test_start_whose_answer_was_lost_is_repeated(connect) -> None:
    first, second = connect(), connect()
    kernel = str(uuid.uuid4())
    one = first.start(kernel=kernel)
    two = second.start(kernel=kernel)
    assert one["ok"]["pid"] == two["ok"]["pid"]
    assert first.is_disconnected() == "replaced"
    assert second.start(kernel=kernel, claim="theirs")["error"]["kind"] in ("bad_request", "in_use")


def test_signals_to_the_host_of_a_terminal_are_ignored(connect, folder) -> None:
    program = connect()
    pid = json.loads(json.dumps(program.start()))["ok"]["pid"]
    host = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for signum in (signal.SIGHUP, signal.SIGINT):
        os.kill(host, signum)
    assert len(program.ask("list")["ok"]["kernels"]) == 1
    assert os.getsid(host) != os.getsid(0)
