"""Kill servers that share a registry, and its store, while users work through all of them.

Run by hand: ``python -m tests.integration.gateway_kills [KILLS] [USERS] [SEED] [STOP_SECONDS]``.
Three servers share a PostgreSQL. Each user executes cells that print numbered lines, one after the
other, each time through a server chosen at random, and reconnects through any other when its
WebSocket is closed. Meanwhile SIGKILL or SIGTERM ends one server after the other, which is started
again some seconds later, and half way the store is suspended for STOP_SECONDS, and stopped and
started again. There are fewer kernels than users may want. All the time no limit may be exceeded
and no kernel may belong to two servers; each cell must give each line once and in order; in the end
no kernel and no process may be left. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from kernelproto.interfaces import User
from kernelproto.registry.postgresql import PostgreSQLRegistry
from kernelproto.server.auth.authenticators import hash_token
from kernelproto.server.nodes.seal import HEADER, Assertion, seal
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.server_kills import Faults, report
from tests.registry.postgres import Postgres

NODES = 3
GUARD_SECONDS = 120.0
UNREAD_SECONDS = 15.0
LINES = 2000
FLOOD = (
    f"import time\nfor n in range({LINES}):\n    print(n)\n    if n % 200 == 0: time.sleep(0.1)\n"
)
MAX_PER_USER = 2
GONE = (OSError, httpx.TransportError, WebSocketException, TimeoutError)
AGAIN = (409, 429, 502, 503)


class Node:
    """A server program, started again and again under the same name."""

    def __init__(self, folder: Path, registry: str, max_kernels: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{port}.log"
        self._command = [
            *(sys.executable, "-m", "kernelproto.server", "--port", str(port)),
            *("--registry", registry, "--node-url", self.url),
            *("--authentication", "file", "--token-file", str(folder / "users.toml")),
            *("--max-kernels", str(max_kernels), "--max-per-user", str(MAX_PER_USER)),
            *("--kernel", "pyimport/kernel", "--starts-per-minute", "0", "--grace-seconds", "0"),
        ]
        for name in ("runtime", "data", "config", "ipython", "root"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        self._cwd = folder / "root"
        self.runtime = str(folder / "runtime")
        self._env = {
            **os.environ,
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "IPYTHONDIR": str(folder / "ipython"),
        }

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, cwd=self._cwd, stdout=log, stderr=log
            )

    async def end(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)
        await asyncio.to_thread(self.process.wait, GUARD_SECONDS)

    async def until_ready(self) -> None:
        """Wait until the server listens; start it again if the store was away."""
        async with asyncio.timeout(GUARD_SECONDS), httpx.AsyncClient() as client:
            while True:
                assert self.process is not None
                if self.process.poll() is not None:
                    self.start()
                with suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.2)


class Client:
    """A user, who works through any server."""

    def __init__(self, name: str, test: Test) -> None:
        self.name = name
        self._test = test
        self._session = uuid.uuid4().hex
        self._framing = client_framing(V1_SUBPROTOCOL)
        self._socket: ClientConnection | None = None
        self._last: str | None = None
        self._kernel_id = ""
        self._headers = {"authorization": f"token {name}"}

    async def work(self) -> None:
        """Execute cells until the test is over."""
        number = 0
        while not self._test.is_over:
            number += 1
            if await self._open_session():
                await self._execute(number)
            if self._test.dice.random() < 0.5:  # others may have its kernel
                await self._close_session()
                await asyncio.sleep(self._test.dice.uniform(0, 3))

    async def finish(self) -> None:
        await self._close_session()

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request to any server, again while it says so."""
        deadline = time.monotonic() + GUARD_SECONDS
        while time.monotonic() < deadline or not self._test.is_over:
            node = self._test.any_node()
            with suppress(httpx.TransportError):
                async with httpx.AsyncClient(timeout=30, headers=self._headers) as client:
                    response = await client.request(method, f"{node.url}{path}", **options)
                self._test.counts[f"{method} {response.status_code}"] += 1
                if response.status_code not in AGAIN:
                    return response
            await asyncio.sleep(self._test.dice.uniform(0.1, 0.5))
        raise TimeoutError(f"{self.name}: {method} {path} is refused")

    async def _open_session(self) -> bool:
        body = {"path": f"{self.name}.ipynb", "type": "notebook"}
        try:
            response = await self._request("POST", "/api/sessions", json=body)
        except TimeoutError:  # the test is over, and others have all kernels
            return False
        assert response.status_code == 201, f"session: {response.text}"
        kernel_id = response.json()["kernel"]["id"]
        if kernel_id != self._kernel_id:
            await self._disconnect()
            self._kernel_id, self._last = kernel_id, None
        return True

    async def _close_session(self) -> None:
        await self._disconnect()
        for session in (await self._request("GET", "/api/sessions")).json():
            await self._request("DELETE", f"/api/sessions/{session['id']}")
        self._kernel_id = ""

    async def _disconnect(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    async def _connect(self) -> bool:
        """Connect through any server; return whether the kernel still exists."""
        await self._disconnect()
        last = f"&last_msg_id={self._last}" if self._last else ""
        async with asyncio.timeout(GUARD_SECONDS):
            while True:
                node = self._test.any_node()
                address = f"{node.url.replace('http', 'ws', 1)}/api/kernels/{self._kernel_id}"
                try:
                    self._socket = await connect(
                        f"{address}/channels?session_id={self._session}{last}",
                        additional_headers=self._headers,
                        subprotocols=[V1_SUBPROTOCOL],
                        max_size=None,
                        proxy=None,
                    )
                except InvalidStatus as error:
                    status = error.response.status_code
                    self._test.faults.check(status in (404, *AGAIN), f"WebSocket: {status}")
                    if error.response.status_code == 404:
                        return False
                except GONE:
                    pass
                else:
                    self._test.counts["WebSockets"] += 1
                    self._test.through[node.url] += 1
                    return True
                await asyncio.sleep(self._test.dice.uniform(0.1, 0.5))

    async def _execute(self, number: int) -> None:
        """Execute a cell, and check its lines."""
        if not await self._connect():
            self._test.counts["kernels that ended"] += 1
            return
        assert self._socket is not None
        msg_id = uuid.uuid4().hex
        header = Header(
            msg_id=msg_id, msg_type="execute_request", session=self._session, version="5.4"
        )
        message = Message.build(header, {"code": FLOOD, "allow_stdin": False})
        try:
            await self._socket.send(self._framing.encode("shell", message))
        except GONE:
            self._test.counts["cells unread"] += 1
            return
        text, status, ends, answered = "", None, {"reply", "idle"}, False
        deadline = time.monotonic() + GUARD_SECONDS
        while ends:
            wait = UNREAD_SECONDS if not answered else deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(0.1, wait)):
                    _, message = self._framing.decode(await self._socket.recv())
            except GONE as error:
                if isinstance(error, TimeoutError) and not answered:
                    self._test.counts["cells unread"] += 1
                    return  # it was sent to a server that was killed before it read it
                late = time.monotonic() > deadline
                lines = len(text.split())
                words = f"cell {number} ({msg_id}) does not end: {lines} lines, lacks {ends}"
                self._test.faults.check(not late, f"{self.name}: {words}")
                if late or not await self._connect():
                    self._test.counts["cells of kernels that ended"] += 1
                    return
                continue
            self._last = message.msg_id
            parent = message.parent_header
            if parent is None or parent.msg_id != msg_id:
                continue
            answered = True
            if message.msg_type == "stream":
                text += message.content.text
            elif message.msg_type == "execute_reply":
                status = message.content.status
                ends.discard("reply")
            elif message.msg_type == "status" and message.content.execution_state == "idle":
                ends.discard("idle")
        self._test.counts[f"cells {status}"] += 1
        if status == "ok":
            lines = text.split()
            wrong = lines != [str(n) for n in range(LINES)]
            words = f"{len(lines)} lines, of which {len(set(lines))} differ: {text[:200]!r}"
            self._test.faults.check(not wrong, f"{self.name}: cell {number} has {words}")
            self._test.counts["lines"] += len(lines)


class Test:
    """The servers, the users, and the checks."""

    __test__ = False

    def __init__(self, folder: Path, users: int, seed: str) -> None:
        self.faults = Faults()
        self.dice = random.Random(seed)
        self.counts = Counter[str]()
        self.through = Counter[str]()
        self.most = Counter[str]()
        self.is_over = False
        self.max_kernels = max(2, users * 3 // 4)
        names = [f"user{number}" for number in range(users)]
        tables = [f'["{name}"]\ntoken = "{hash_token(name)}"\n' for name in names]
        (folder / "users.toml").write_text("".join(tables))
        (folder / "users.toml").chmod(0o600)
        self.postgres = Postgres()
        self.nodes = [Node(folder, self.postgres.url, self.max_kernels) for _ in range(NODES)]
        self.clients = [Client(name, self) for name in names]
        self._secret = ""

    def any_node(self) -> Node:
        return self.dice.choice(self.nodes)

    async def run(self, kills: int, stop_seconds: float) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            await node.until_ready()
        async with PostgreSQLRegistry(self.postgres.url) as registry:
            self._secret = await registry.secret()
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch())
            workers = [tasks.create_task(client.work()) for client in self.clients]
            await asyncio.sleep(5)
            for number in range(kills):
                if number == kills // 2 and stop_seconds:
                    await self._stop_store(stop_seconds)
                node = self.nodes[number % NODES]
                signum = signal.SIGTERM if self.dice.random() < 0.3 else signal.SIGKILL
                self.counts[signum.name] += 1
                await node.end(signum)
                await asyncio.sleep(self.dice.choice((0, 1, 3, 20)))
                node.start()
                await node.until_ready()
                await asyncio.sleep(self.dice.uniform(0, 3))
            self.is_over = True
            for worker in workers:
                await worker
            watch.cancel()
        for client in self.clients:
            await client.finish()
        await self._check_end()
        self.counts["seconds"] = round(time.monotonic() - began)

    async def _stop_store(self, seconds: float) -> None:
        self.postgres.suspend()
        await asyncio.sleep(seconds)
        self.postgres.resume()
        await asyncio.sleep(5)
        self.postgres.stop()
        await asyncio.sleep(3)
        await asyncio.to_thread(self.postgres.start)
        self.counts["stops of the store"] += 2

    async def _watch(self) -> None:
        """Check the limits and the owners of the kernels, again and again."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(0.3)
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(2):
                    rows = await self._query(
                        "select owner, count(*) from kernelproto.kernel group by 1"
                    )
                kernels, of_user = sum(n for _, n in rows), max((n for _, n in rows), default=0)
                self.most["kernels"] = max(self.most["kernels"], kernels)
                self.faults.check(kernels <= self.max_kernels, f"there are {kernels} kernels")
                self.faults.check(of_user <= MAX_PER_USER, f"a user has {of_user} kernels")
            processes = Counter(self._kernel_processes().values())
            self.most["processes"] = max(self.most["processes"], len(processes))
            # A kernel may move between the lists of two servers, but is not in both for long.
            owners = Counter[str]()
            for node in self.nodes:
                owners.update(await self._kernels_of(node))
            twice = {kernel_id for kernel_id, count in owners.items() if count > 1}
            self.faults.check(not (twice & before), f"kernels of two servers: {twice & before}")
            before = twice

    async def _kernels_of(self, node: Node) -> set[str]:
        """Return the kernels of one server, without those of the others."""
        target = "/api/kernels?include_all=1"
        assertion = Assertion(user=User("root", admin=True))
        value = seal(assertion, secret=self._secret, node=node.url, method="GET", target=target)
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(timeout=5) as client:
                response = await client.get(f"{node.url}{target}", headers={HEADER: value})
            return {model["id"] for model in response.json()}
        return set()

    def _kernel_processes(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                if env.get("JUPYTER_RUNTIME_DIR") == self.nodes[0].runtime:
                    kernel_id = env.get("KERNELPROTO_KERNEL_ID")
                    if kernel_id:
                        found[process.pid] = kernel_id
        return found

    async def _check_end(self) -> None:
        deadline = time.monotonic() + 90  # a kernel without a server is adopted before it ends
        left: object = None
        while time.monotonic() < deadline:
            left = await self._query("select id, node, handle from kernelproto.kernel")
            left = left or self._kernel_processes()
            if not left:
                return
            await asyncio.sleep(0.5)
        self.faults.check(False, f"kernels are left: {left}")

    async def _query(self, query: str) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(
            self.postgres.url, connect_timeout=2
        ) as connection:
            return await (await connection.execute(query)).fetchall()

    def close(self) -> None:
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    node.process.wait(30)
                node.process.kill()
                node.process.wait()
        for pid in self._kernel_processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.close()


def kill_gateways(
    kills: int, users: int, seed: str, folder: Path, *, stop_seconds: float = 30
) -> Faults:
    """Kill servers so many times; return everything that was wrong."""
    test = Test(folder, users, seed)
    try:
        asyncio.run(test.run(kills, stop_seconds))
    except Exception as error:  # the figures so far and the logs say more
        test.faults.check(False, f"the test has failed: {error!r} {error.__cause__!r}")
    finally:
        test.close()
    report(
        f"seed {seed}: {users} users, {NODES} servers, at most {test.max_kernels} kernels "
        f"(most seen: {test.most['kernels']} rows, {test.most['processes']} processes); "
        f"{dict(sorted(test.counts.items()))}; WebSockets by server: "
        f"{sorted(test.through.values())}; wrong: {test.faults or 'nothing'}"
    )
    if test.faults:
        for node in test.nodes:
            report(f"{node.url}:\n{node.log.read_text(errors='replace')[-20_000:]}")
    return test.faults


def main(kills: int, users: int, seed: str, stop_seconds: float) -> int:
    """Kill servers so many times; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="kp-") as folder:
        return (
            1 if kill_gateways(kills, users, seed, Path(folder), stop_seconds=stop_seconds) else 0
        )


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    sys.exit(
        main(
            int(given.get(1, "50")),
            int(given.get(2, "12")),
            given.get(3, "1"),
            float(given.get(4, "30")),
        )
    )
