"""Kill servers that share a registry, and its store, while users work through all of them.

Run by hand: ``python -m tests.integration.gateway_kills --kills 50 --users 200``; ``--help`` shows
the options. Three servers share a PostgreSQL; ``gateway_users`` describes the users. Meanwhile
SIGKILL or SIGTERM ends one of the servers, which is started again some seconds later, and so on.
Half way the store is suspended for some seconds, during which a server is killed as well, and then
the store is stopped and started again. There are fewer kernels than users may want.

All the time no limit may be exceeded and no kernel may belong to two servers; each cell must give
each line once and in order; in the end no kernel and no process may be left. The exit status is 1
if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from kernelproto.interfaces import User
from kernelproto.registry.postgresql import PostgreSQLRegistry
from kernelproto.server.auth.authenticators import hash_token
from kernelproto.server.nodes.seal import HEADER, Assertion, seal
from tests.integration.gateway_users import GUARD_SECONDS, MAX_PER_USER, Client, Work
from tests.integration.server_kills import Faults, report
from tests.registry.postgres import Postgres

NODES = 3


class Node:
    """A server program, started again and again under the same name."""

    def __init__(self, folder: Path, registry: str, max_kernels: int, kernel: str) -> None:
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
            *("--kernel", kernel, "--starts-per-minute", "0", "--grace-seconds", "0"),
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
        async with asyncio.timeout(GUARD_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while True:
                assert self.process is not None
                if self.process.poll() is not None:
                    self.start()
                with suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.2)


class Test:
    """The servers, the users, and the checks.

    Args:
        folder: for the files of the servers.
        users: the number of users.
        turns: the number of users that work at the same time.
        kernel: the kernel type.
        seed: the seed of all choices.
    """

    __test__ = False

    def __init__(self, folder: Path, users: int, turns: int, kernel: str, seed: str) -> None:
        self.max_kernels = max(2, users * 3 // 4)
        self.most = Counter[str]()
        names = [f"user{number}" for number in range(users)]
        tables = [f'["{name}"]\ntoken = "{hash_token(name)}"\n' for name in names]
        (folder / "users.toml").write_text("".join(tables))
        (folder / "users.toml").chmod(0o600)
        self.postgres = Postgres()
        self.nodes = [
            Node(folder, self.postgres.url, self.max_kernels, kernel) for _ in range(NODES)
        ]
        self.work = Work([node.url for node in self.nodes], seed, turns)
        self.faults, self.counts = self.work.faults, self.work.counts
        self._names = names
        self._secret = ""
        self._programs = _Programs(self.nodes[0].runtime)

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
            users = [tasks.create_task(Client(name, self.work).work()) for name in self._names]
            await asyncio.sleep(5)
            for number in range(1, kills + 1):
                if number == (kills + 1) // 2 and stop_seconds:
                    await self._stop_store(stop_seconds)
                else:
                    await self._kill_one()
                report(f"{round(time.monotonic() - began)} s: {number} servers killed")
            self.counts["seconds with kills"] = round(time.monotonic() - began)
            self.work.is_over = True
            for user in users:
                await user
            watch.cancel()
        await self._check_end()
        self.counts["seconds"] = round(time.monotonic() - began)

    async def _kill_one(self) -> None:
        """End a server, and start it again before or after its claims have lapsed."""
        dice = self.work.dice
        node = dice.choice(self.nodes)
        signum = signal.SIGTERM if dice.random() < 0.3 else signal.SIGKILL
        self.counts[signum.name] += 1
        await node.end(signum)
        await asyncio.sleep(dice.choice((0, 1, 3, 20)))
        node.start()
        await node.until_ready()
        await asyncio.sleep(dice.uniform(0, 3))

    async def _stop_store(self, seconds: float) -> None:
        """Suspend the store, and kill a server meanwhile; then stop the store for a moment."""
        self.postgres.suspend()
        await asyncio.sleep(seconds / 2)
        node = self.work.dice.choice(self.nodes)
        self.counts["SIGKILL"] += 1
        await node.end(signal.SIGKILL)
        await asyncio.sleep(seconds / 2)
        self.postgres.resume()
        node.start()
        await asyncio.sleep(5)
        self.postgres.stop()
        await asyncio.sleep(3)
        await asyncio.to_thread(self.postgres.start)
        await node.until_ready()
        self.counts["stops of the store"] += 2

    async def _watch(self) -> None:
        """Check the limits and the owners of the kernels, again and again."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(0.3)
            self.counts["checks of the owners"] += 1
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(2):
                    rows = await self._query(
                        "select owner, count(*) from kernelproto.kernel group by 1"
                    )
                self.counts["checks of the limits"] += 1
                kernels, of_user = sum(n for _, n in rows), max((n for _, n in rows), default=0)
                self.most["rows"] = max(self.most["rows"], kernels)
                self.most["rows of a user"] = max(self.most["rows of a user"], of_user)
                self.faults.check(kernels <= self.max_kernels, f"there are {kernels} kernels")
                self.faults.check(of_user <= MAX_PER_USER, f"a user has {of_user} kernels")
            forked = self._programs.forked()
            self.most["kernel processes"] = max(self.most["kernel processes"], forked)
            self.faults.check(forked <= self.max_kernels, f"there are {forked} kernel processes")
            # A kernel may move between the lists of two servers, but is not in both for long.
            owners = Counter[str]()
            for each in await asyncio.gather(*map(self._kernels_of, self.nodes)):
                owners.update(each)
            twice = {kernel_id for kernel_id, count in owners.items() if count > 1}
            self.faults.check(not (twice & before), f"kernels of two servers: {twice & before}")
            before = twice

    async def _kernels_of(self, node: Node) -> set[str]:
        """Return the kernels of one server, without those of the others."""
        target = "/api/kernels?include_all=1"
        assertion = Assertion(user=User("root", admin=True))
        request = {"secret": self._secret, "node": node.url, "method": "GET", "target": target}
        value = seal(assertion, now=time.time(), **request)
        with suppress(httpx.TransportError):
            url = f"{node.url}{target}"
            response = await self.work.http.get(url, headers={HEADER: value}, timeout=5)
            return {model["id"] for model in response.json()}
        return set()

    async def _check_end(self) -> None:
        deadline = time.monotonic() + 90  # a kernel without a server is adopted before it ends
        left: object = None
        while time.monotonic() < deadline:
            left = await self._query("select id, node, handle from kernelproto.kernel")
            left = left or self._programs.besides(self.nodes)
            if not left:
                return
            await asyncio.sleep(0.5)
        self.faults.check(False, f"kernels or programs are left: {left}")

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
        for pid in self._programs.besides([]):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.close()


class _Programs:
    """The programs with a runtime folder: servers, hosts, fork servers and kernels."""

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime
        self._fork_servers: list[int] = []

    def forked(self) -> int:
        """Return the number of kernels of the fork servers."""
        if not self._fork_servers or not all(map(psutil.pid_exists, self._fork_servers)):
            programs = self.besides([])
            found = {pid for pid in programs if "forkserver.py" in programs[pid]}
            self._fork_servers = [pid for pid in found if _parent(pid) not in found]
        children: list[str] = []
        for pid in self._fork_servers:
            with suppress(OSError):
                children += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(_parent(int(pid)) != 0 for pid in children)

    def besides(self, nodes: list[Node]) -> dict[int, str]:
        """Return the command lines of all programs but the servers, by their ids."""
        found: dict[int, str] = {}
        servers = {node.process.pid for node in nodes if node.process is not None}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                of_test = process.environ().get("JUPYTER_RUNTIME_DIR") == self._runtime
                if of_test and process.pid not in servers:
                    found[process.pid] = " ".join(process.cmdline())
        return found


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 if the process has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.ppid()
    return 0


def kill_gateways(
    kills: int,
    users: int,
    seed: str,
    folder: Path,
    *,
    turns: int = 16,
    kernel: str = "fork/kernel",
    store_seconds: float = 30,
) -> Faults:
    """Kill servers so many times; return everything that was wrong."""
    test = Test(folder, users, turns, kernel, seed)
    try:
        asyncio.run(test.run(kills, store_seconds))
    except Exception as error:  # the figures so far and the logs say more
        test.faults.check(False, f"the test has failed: {error!r} {error.__cause__!r}")
    finally:
        test.close()
    report(
        f"seed {seed}: {users} users of which {turns} work at a time, {NODES} servers, at most "
        f"{test.max_kernels} kernels, {MAX_PER_USER} of a user (most seen: {dict(test.most)}); "
        f"{dict(sorted(test.counts.items()))}; WebSockets by server: "
        f"{sorted(test.work.through.values())}; wrong: {test.faults or 'nothing'}"
    )
    if test.faults:
        for node in test.nodes:
            report(f"{node.url}:\n{node.log.read_text(errors='replace')[-20_000:]}")
    return test.faults


def main() -> int:
    """Kill servers so many times; return the exit status."""
    parser = argparse.ArgumentParser(prog="gateway_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--turns", type=int, default=16, help="users that work at the same time")
    parser.add_argument("--kernel", default="fork/kernel", help="the kernel type")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--store-seconds", type=float, default=30, help="0: do not stop the store")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kp-") as folder:
        faults = kill_gateways(
            given.kills,
            given.users,
            given.seed,
            Path(folder),
            turns=given.turns,
            kernel=given.kernel,
            store_seconds=given.store_seconds,
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
