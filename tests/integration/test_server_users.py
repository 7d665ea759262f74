"""Many users on one server, as a program, with real kernels and over a real network.

KERNELPROTO_TEST_USERS says how many users there are, 8 by default. With 50 it takes a quarter of
a minute on a small machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.oracle import no_pause

pytestmark = pytest.mark.usefixtures("no_leaks")

USERS = [f"user{number}" for number in range(int(os.environ.get("KERNELPROTO_TEST_USERS", "8")))]
LINES = 100
LONG = 20_000
GUARD_SECONDS = 240

ON_ASYNCIO = ["-m", "kernelproto.server", "--port", "0"]
ON_TRIO = [str(Path(__file__).with_name("trio_server.py"))]
LOOPS = [pytest.param(ON_ASYNCIO, id="asyncio"), pytest.param(ON_TRIO, id="trio")]

FRAMING = client_framing(V1_SUBPROTOCOL)
WORK = "import time; print('working', flush=True); time.sleep(1000)"


@dataclass
class Server:
    """A server that lets in whom a header names."""

    process: subprocess.Popen[str]
    url: httpx.URL

    def client(self, user: str) -> httpx.Client:
        headers = {"X-Forwarded-User": user}
        # There is no TLS here, and the certificates for it would take longer than a request.
        return httpx.Client(base_url=self.url, headers=headers, timeout=GUARD_SECONDS, verify=False)

    def start(self, user: str) -> str:
        with self.client(user) as client:
            response = client.post("/api/kernels")
        assert response.status_code == 201, response.text
        return response.json()["id"]

    def connect(
        self, user: str, kernel_id: str, query: str = "", *, max_queue: int = 16
    ) -> ClientConnection:
        return connect(
            f"ws://{self.url.host}:{self.url.port}/api/kernels/{kernel_id}/channels?{query}",
            subprotocols=[V1_SUBPROTOCOL],
            additional_headers={"X-Forwarded-User": user},
            compression=None,
            max_size=None,
            max_queue=max_queue,
            proxy=None,
        )


@contextmanager
def serving(program: list[str], **settings: object) -> Iterator[Server]:
    environ = {
        "authentication": "proxy",
        "trusted_proxies": "127.0.0.1",
        "kernel": "fork/kernel",
        "max_kernels": len(USERS),
        **settings,
    }
    env = {f"KERNELPROTO_{key.upper()}": str(value) for key, value in environ.items()}
    command = [sys.executable, *program]
    with subprocess.Popen(
        command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        log = iter(process.stderr.readline, "")
        try:
            url = next(found for line in log if (found := re.search(r"http://[\d.]+:\d+", line)))
            threading.Thread(target=list, args=(log,)).start()  # so that it never waits for us
            server = Server(process, httpx.URL(url.group()))
            with no_pause(server.url.port or 0, process.pid):
                yield server
        finally:
            process.terminate()
            process.wait(GUARD_SECONDS)


def ask(connection: ClientConnection, code: str, msg_id: str) -> None:
    header = Header(msg_id=msg_id, msg_type="execute_request", session="first", version="5.4")
    connection.send(FRAMING.encode("shell", Message.build(header, {"code": code})))


def receive(connection: ClientConnection) -> Message:
    return FRAMING.decode(connection.recv(timeout=GUARD_SECONDS))[1]


def receive_until(connection: ClientConnection, fits: Callable[[Message], bool]) -> list[Message]:
    messages = [receive(connection)]
    while not fits(messages[-1]):
        messages.append(receive(connection))
    return messages


def is_idle(msg_id: str) -> Callable[[Message], bool]:
    def fits(message: Message) -> bool:
        parent = message.parent_header
        return (
            parent is not None
            and parent.msg_id == msg_id
            and message.msg_type == "status"
            and message.content.execution_state == "idle"
        )

    return fits


def is_state(*states: str) -> Callable[[Message], bool]:
    return lambda m: m.msg_type == "status" and m.content.execution_state in states


def text_of(messages: list[Message]) -> str:
    return "".join(m.content.text for m in messages if m.msg_type == "stream")


def closing(connection: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until the server has closed a connection; return the code and the reason."""
    while connection.close_code is None:
        with suppress(ConnectionClosed):
            connection.recv(timeout=GUARD_SECONDS)
    return connection.close_code, connection.close_reason


@pytest.mark.parametrize("program", LOOPS)
def test_all_at_once_and_one_more(program: list[str]) -> None:
    """Outputs are tagged, and each user looks at all that comes."""
    strays: Counter[str] = Counter()
    together = threading.Barrier(len(USERS) + 1, timeout=GUARD_SECONDS)
    done = threading.Event()

    def use(user: str) -> None:
        try:
            kernel_id = server.start(user)
            with server.connect(user, kernel_id) as connection:
                work(user, kernel_id, connection)
                if user != USERS[0]:
                    together.wait()  # all but one are connected
                    done.wait(GUARD_SECONDS)
                    return
            together.wait()
        except BaseException:
            together.abort()
            raise

    def work(user: str, kernel_id: str, connection: ClientConnection) -> None:
        together.wait()  # all have a kernel
        ask(connection, f"for n in range({LINES}): print('{user}', n, flush=True)", "lines")
        lines = text_of(receive_until(connection, is_idle("lines"))).splitlines()
        strays[user] += sum(line.split()[0] != user for line in lines)
        assert [line.split()[1] for line in lines] == [str(number) for number in range(LINES)]
        ask(connection, WORK, "work")
        receive_until(connection, lambda m: m.msg_type == "stream")
        together.wait()  # all are busy
        together.wait()  # one more was refused
        with server.client(user) as client:
            assert client.post(f"/api/kernels/{kernel_id}/interrupt").status_code == 204
        messages = receive_until(connection, is_idle("work"))
        assert "error" in {message.msg_type for message in messages}

    with serving(program) as server, ThreadPoolExecutor(len(USERS)) as threads:
        tasks = [threads.submit(use, user) for user in USERS]
        try:
            together.wait()
            together.wait()
            with server.client("one more") as client:
                refused = client.post("/api/kernels")
                assert refused.status_code == 503
                assert refused.json()["reason"] == "Service Unavailable"
                assert "try again later" in refused.json()["message"]
                together.wait()
                together.wait()
                with server.client(USERS[0]) as owner:
                    while owner.get("/api/kernels").json()[0]["connections"]:
                        pass
                    assert client.post("/api/kernels").status_code == 201
                    assert owner.get("/api/kernels").json() == []
        finally:
            together.abort()
            done.set()
        for task in tasks:
            task.result()
        assert strays == dict.fromkeys(USERS, 0)


@pytest.mark.parametrize("program", LOOPS)
def test_client_that_is_lost_in_the_middle_of_a_long_output(program: list[str]) -> None:
    """It comes back as another session, and says what it has; so it gets the rest, and just that.

    The network tells nobody how much of what it has carried was read.
    """
    lines: list[str] = []
    connection_lost = 0
    with serving(program) as server:
        kernel_id = server.start("ada")
        connection = server.connect("ada", kernel_id, "session_id=first").__enter__()
        ask(connection, f"for n in range({LONG}): print(n, flush=n % 5 == 4)", "long")
        over: set[str] = set()
        while over != {"execute_reply", "idle"}:
            message = receive(connection)
            lines += text_of([message]).split()
            if message.msg_type == "execute_reply":
                over.add("execute_reply")
            elif is_idle("long")(message):
                over.add("idle")
            if len(lines) >= 4000 * (connection_lost + 1) and connection_lost < 4:
                connection_lost += 1
                cut(connection)
                query = f"session_id=session-{connection_lost}&last_msg_id={message.msg_id}"
                connection = server.connect("ada", kernel_id, query).__enter__()
        connection.close()
    assert connection_lost == 4
    assert lines == [str(number) for number in range(LONG)]


def cut(connection: ClientConnection) -> None:
    """Lose a connection without a word; what was not read yet is gone."""
    option = struct.pack("ii", 1, 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    connection.socket.shutdown(socket.SHUT_RDWR)
    connection.close_socket()


@pytest.mark.parametrize("program", LOOPS)
def test_connection_that_never_reads(program: list[str]) -> None:
    code = "for n in range(4): print('x' * 1_000_000, flush=True)"
    with serving(program, send_buffer_bytes=8_000_000) as server:
        kernel_id = server.start("ada")
        with (
            server.connect("ada", kernel_id) as reader,
            server.connect("ada", kernel_id, max_queue=1) as deaf,
        ):
            ask(reader, "0", "warm up")
            receive_until(reader, is_idle("warm up"))
            before = resident_bytes(server.process.pid)
            for number in range(15):
                ask(reader, code, f"{number}")
                assert len(text_of(receive_until(reader, is_idle(f"{number}")))) == 4_000_004
            assert resident_bytes(server.process.pid) - before < 50_000_000
            assert closing(deaf) == (1013, "Too slow: more output waits than the server keeps.")


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/statm").read_text("ascii")
    return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_killed_kernels_are_told_of_until_one_is_dead() -> None:
    states: list[str] = []
    with serving(ON_TRIO) as server:  # where little time passes between two restarts
        kernel_id = server.start("ada")
        with server.connect("ada", kernel_id) as connection:
            while states[-1:] != ["dead"]:
                ask(connection, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "kill")
                *_, status = receive_until(connection, is_state("restarting", "dead"))
                states.append(status.content.execution_state)
            code, reason = closing(connection)
        assert code == 1001
        assert reason is not None
        assert "SIGKILL" in reason
        with server.client("ada") as client:
            assert client.get("/api/kernels").json() == []
    assert states == ["restarting"] * 5 + ["dead"]


@pytest.mark.parametrize("program", LOOPS)
@pytest.mark.parametrize("death", ["os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_no_client_waits_for_a_kernel_that_has_died(program: list[str], death: str) -> None:
    with serving(program) as server:
        kernel_id = server.start("ada")
        with server.connect("ada", kernel_id) as connection, server.client("ada") as client:
            ask(connection, f"import os, time; time.sleep(0.2); {death}", "dies")
            ask(connection, "6 * 7", "never runs")
            messages = receive_until(connection, is_state("restarting"))
            messages += receive_until(connection, is_idle("never runs"))
            replies = {
                message.parent_header.msg_id: message.content.status
                for message in messages
                if message.msg_type == "execute_reply" and message.parent_header is not None
            }
            assert replies == {"dies": "aborted", "never runs": "aborted"}
            assert "[the kernel died: " in text_of(messages)
            ask(connection, "6 * 7", "again")
            receive_until(connection, is_idle("again"))
            model = client.get(f"/api/kernels/{kernel_id}").json()
            assert model["previous_end"].startswith("the kernel died: ")


@pytest.mark.parametrize(
    ("program", "number", "end"),
    [
        pytest.param(ON_ASYNCIO, signal.SIGTERM, ({1012}, 0), id="asyncio-terminated"),
        pytest.param(ON_TRIO, signal.SIGTERM, ({1001}, 0), id="trio-terminated"),
        pytest.param(ON_ASYNCIO, signal.SIGKILL, ({1006}, -signal.SIGKILL), id="asyncio-killed"),
    ],
)
def test_signal_leaves_nothing_behind(
    program: list[str], number: int, end: tuple[set[int], int]
) -> None:
    """Whether connections were closed properly, and what the exit status is."""
    with serving(program) as server:
        with ThreadPoolExecutor(3) as threads:
            ids = list(threads.map(server.start, USERS[:3]))
        with server.connect(USERS[0], ids[0]) as busy, server.connect(USERS[1], ids[1]) as idle:
            ask(busy, WORK, "work")
            receive_until(busy, lambda m: m.msg_type == "stream")
            server.process.send_signal(number)
            codes = {closing(busy)[0], closing(idle)[0]}
        status = server.process.wait(GUARD_SECONDS)
    assert (codes, status) == end
