"""Attacks by count: many chunks, frames, parts, names, headers, sessions or sockets, few bytes.

As a program it prints how long the worst of them holds up everybody else, and what it costs:

    python -m tests.integration.counted [--python PYTHON] [--loop asyncio|uvloop] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests, whatever package is attacked

from tests.integration.oracle import StallOracle

MEGABYTES: float = 5
ATTACK_SECONDS = 45
EVE = "eve"

PROGRAM = "import sys; {}from kernelproto.server.program.serve import main; sys.exit(main())"
LOOPS = {"asyncio": "sys.modules['uvloop'] = None; ", "uvloop": "import uvloop; "}


@dataclass
class Target:
    """A server, and the kernel that the attacker has there."""

    port: int
    pid: int
    kernel_id: str = ""

    def request(self, method: str, path: str, user: str = EVE, body: Any = None) -> Any:
        request = Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            headers={"X-Forwarded-User": user, "Connection": "close"},
            data=None if body is None else json.dumps(body).encode(),
        )
        with urlopen(request, timeout=60) as response:
            return json.loads(response.read() or b"null")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def head(self, method: str, path: str, user: str | None = EVE, **headers: str) -> bytes:
        lines = {"Host": "server.test"} | ({"X-Forwarded-User": user} if user else {}) | headers
        fields = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode()

    def handshake(self) -> bytes:
        return self.head(
            "GET",
            f"/api/kernels/{self.kernel_id}/channels",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==",
            Sec_WebSocket_Protocol="v1.kernel.websocket.jupyter.org",
        )


@contextmanager
def target(
    loop: str = "asyncio", python: str = sys.executable, **settings: object
) -> Iterator[Target]:
    """Run a server as a program; give it with a kernel for the attacker."""
    defaults = {"port": 0, "authentication": "proxy", "trusted_proxies": "127.0.0.1"}
    settings = {**defaults, "kernel": "fork/kernel", "max_per_user": 3, **settings}
    env = {f"KERNELPROTO_{key.upper()}": str(value) for key, value in settings.items()}
    program = PROGRAM.format(LOOPS[loop])
    with subprocess.Popen(
        [python, "-c", program], env=os.environ | env, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        log = iter(process.stderr.readline, "")
        try:
            found = next(m for line in log if (m := re.search(r"http://[\d.]+:(\d+)", line)))
            drain = threading.Thread(target=lambda: [*log])
            drain.start()
            server = Target(int(found[1]), process.pid)
            server.kernel_id = server.request("POST", "/api/kernels", body={})["id"]
            yield server
        finally:
            process.terminate()
            process.wait(ATTACK_SECONDS)


# An attack returns how many bytes it has sent.
Attack = Callable[[Target], int]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


def send(
    target: Target, first: bytes, rest: bytes, *, until: bytes = b"", reads: bool = True
) -> int:
    """Send on one connection until it is closed; wait for *until* behind the first part."""
    sent = 0
    deadline = time.monotonic() + ATTACK_SECONDS
    with (
        socket.create_connection(("127.0.0.1", target.port), ATTACK_SECONDS) as connection,
        suppress(OSError),  # the server has closed the connection
    ):
        connection.sendall(first)
        sent += len(first)
        data = b""
        while until and until not in data:
            data += connection.recv(65_536)
        view = memoryview(rest)
        while view and time.monotonic() < deadline:
            count = connection.send(view[:65_536])
            view, sent = view[count:], sent + count
            if reads and select.select([connection], [], [], 0)[0]:
                connection.recv(65_536)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536) and time.monotonic() < deadline:
            pass
    return sent


def repeat(unit: bytes) -> bytes:
    return unit * int(MEGABYTES * 1_000_000 // len(unit))


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    assert len(payload) < 126
    return bytes([fin << 7 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


CONTINUATION, TEXT, PING, PONG = 0, 1, 9, 10


@attack
def chunks_of_a_stranger(target: Target) -> int:
    head = target.head("POST", "/api/kernels", None, Transfer_Encoding="chunked")
    return send(target, head, repeat(b"1\r\nx\r\n"))


@attack
def chunks_of_a_user(target: Target) -> int:
    head = target.head("POST", "/api/kernels", Transfer_Encoding="chunked")
    return send(target, head, repeat(b"1\r\n \r\n"))


@attack
def chunks_for_healthz(target: Target) -> int:
    head = target.head("GET", "/healthz", None, Transfer_Encoding="chunked")
    return send(target, head, repeat(b"1\r\nx\r\n"))


@attack
def chunks_on_ten_connections(target: Target) -> int:
    head = target.head("POST", "/api/kernels", Transfer_Encoding="chunked")
    sent: list[int] = []

    def run() -> None:
        sent.append(send(target, head, repeat(b"1\r\n \r\n")[: int(MEGABYTES * 100_000)]))

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sent)


@attack
def pipelined_requests(target: Target) -> int:
    return send(target, b"", repeat(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[:600_000])


@attack
def small_headers(target: Target) -> int:
    head = target.head("GET", "/api/kernels").removesuffix(b"\r\n")
    return send(target, head, repeat(b"a:b\r\n")[:500_000] + b"\r\n")


@attack
def empty_continuations(target: Target) -> int:
    frames = frame(TEXT, b"x", fin=False) + repeat(frame(CONTINUATION, fin=False))
    return send(target, target.handshake(), frames, until=b"\r\n\r\n")


@attack
def small_continuations(target: Target) -> int:
    frames = frame(TEXT, b"x", fin=False) + repeat(frame(CONTINUATION, b"x", fin=False))
    return send(target, target.handshake(), frames, until=b"\r\n\r\n")


@attack
def empty_pings(target: Target) -> int:
    return send(target, target.handshake(), repeat(frame(PING)), until=b"\r\n\r\n")


@attack
def large_pings_without_reading(target: Target) -> int:
    pings = repeat(frame(PING, b"x" * 125))
    return send(target, target.handshake(), pings, until=b"\r\n\r\n", reads=False)


@attack
def empty_pongs(target: Target) -> int:
    return send(target, target.handshake(), repeat(frame(PONG)), until=b"\r\n\r\n")


@attack
def small_messages(target: Target) -> int:
    """Whole messages, which the server hands on to the kernel one by one."""
    parts = [b"shell", b'{"msg_id":"1","msg_type":"x","version":"5.4"}', b"{}", b"{}", b"{}"]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    numbers = [len(offsets), *offsets]
    payload = b"".join(number.to_bytes(8, "little") for number in numbers) + b"".join(parts)
    head = bytes([0x82, 0x80 | 126]) + len(payload).to_bytes(2, "big") + bytes(4)
    return send(target, target.handshake(), repeat(head + payload)[:1_000_000], until=b"\r\n\r\n")


def post(target: Target, path: str, body: Mapping[str, Any]) -> int:
    data = json.dumps(body).encode()
    head = target.head("POST", path, Content_Length=str(len(data)), Connection="close")
    return send(target, head, data)


@attack
def parts_of_a_path(target: Target) -> int:
    return post(target, "/api/kernels", {"path": "a/" * 20_000})


@attack
def parts_of_the_gateways_path(target: Target) -> int:
    return post(target, "/api/kernels", {"env": {"KERNEL_WORKING_DIR": "/a" * 20_000}})


@attack
def long_name(target: Target) -> int:
    return post(target, "/api/kernels", {"name": "pyimport/" + "kernel" * 140_000})


@attack
def sessions(target: Target) -> int:
    size = 0
    for number in range(100):
        body = {"path": f"{number}/" + "x" * 1000, "type": "notebook"}
        body |= {"kernel": {"id": target.kernel_id}}
        size += len(json.dumps(body))
        target.request("POST", "/api/sessions", body=body)
        target.request("GET", "/api/sessions")
    return size


@attack
def websockets(target: Target) -> int:
    return open_many(target, 400, target.handshake())


@attack
def silent_connections(target: Target) -> int:
    return open_many(target, 2000, b"")


@attack
def begun_heads(target: Target) -> int:
    return open_many(target, 2000, b"GET / HTTP/1.1\r\nx: ")


def open_many(target: Target, count: int, data: bytes) -> int:
    with ExitStack() as stack:
        for _ in range(count):
            with suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", target.port), 10)
                stack.enter_context(connection).sendall(data)
                if data.endswith(b"\r\n\r\n"):
                    connection.recv(1000)
    return count * len(data)


def measure(loop: str, python: str, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        with target(loop, python) as server:
            time.sleep(0.5)
            oracle = StallOracle(server.port, server.pid)
            before, began = server.cpu_seconds(), time.monotonic()
            size = ATTACKS[name](server)
            seconds, cpu = time.monotonic() - began, server.cpu_seconds() - before
            time.sleep(0.2)
            report = oracle.stop()
            yield {
                "name": name,
                "loop": loop,
                "bytes": size,
                "seconds": seconds,
                "cpu": cpu,
                **report,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--loop", choices=LOOPS, action="append")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tell("| attack | loop | worst wait, ms | pause, ms | seconds | CPU ns a byte |")
    tell("|---|---|---|---|---|---|")
    for name in options.names or ATTACKS:
        for loop in options.loop or LOOPS:
            for row in measure(loop, options.python, [name]):
                cost = f"{row['cpu'] * 1e9 / row['bytes']:,.0f}" if row["bytes"] > 100_000 else "-"
                wait, pause = row.get("longest_wait", 0) * 1000, row["worst"]["pause"] * 1000
                tell(
                    f"| {name.replace('_', ' ')} | {loop} | {wait:,.0f} | {pause:,.0f} "
                    f"| {row['seconds']:.1f} | {cost} | {' '.join(row['failures'][:1])}"
                )


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
