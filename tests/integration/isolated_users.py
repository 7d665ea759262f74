"""Many isolated users on one server, each looking for the others.

Run by hand, as root: ``python -m tests.integration.isolated_users [USERS] [ROUNDS]``. Each user has
a context of the server, a file and a process that name the user, and prints numbered lines. In
every round, the code of each user looks for files and processes of the others, and each client
looks at the outputs, files and contexts that it gets. At the end, the owner of every file is
compared with its user, and no process of a user may be left. The exit status is 1 if anyone has
seen anything of another user, or if anything is left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psutil

from kernelproto.remote import ContextNotFound, RemoteContext, RemoteServer, connect_server
from kernelproto.server import hash_token

FIRST = 2_000_100_000
LINES = 50
END_SECONDS = 30.0

# Every trace of a user has this form.
TRACE = re.compile(r"trace-of-(user\d+)")

BEGIN = """
import glob, os, re, subprocess, sys
me, trace = {name!r}, {trace!r}
open("trace", "w").write(trace)
open("/tmp/" + trace, "w").close()
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)", trace])
"""

# Prints the traces of users that the code can see.
LOOK = """
homes = os.path.dirname(os.path.expanduser("~"))
found = ["user " + name for name in os.listdir(homes) if name != me]
paths = ["/tmp/*", "/dev/shm/*", "/var/tmp/*", "/run/*", homes + "/*/*", "/proc/[0-9]*/cmdline",
         "/proc/[0-9]*/environ", "/proc/net/unix", "/proc/mounts"]
for path in [path for pattern in paths for path in glob.glob(pattern)]:
    found += re.findall("trace-of-user[0-9]+", path)
    try:
        with open(path, errors="replace") as file:
            found += re.findall("trace-of-user[0-9]+", file.read(100_000))
    except OSError:
        pass
for name in {others!r}:
    for path in (homes + "/" + name, homes + "/" + name + "/trace"):
        try:
            open(path).close()
        except IsADirectoryError:
            found.append("folder " + name)
        except OSError:
            continue
        else:
            found.append("file of " + name)
if trace not in found:
    print("not even the own trace")
print(*sorted(set(found) - {{trace}}), sep="\\n")
"""

PRINT = "for number in range({lines}): print(trace, number, flush=True)"


class Seen(Counter[str]):
    """Counts traces of other users, and leftovers, by kind."""

    def look(self, kind: str, name: str, text: str) -> None:
        """Count the traces of other users than *name* in a text."""
        self[kind] += sum(user != name for user in TRACE.findall(text))


class Visitor:
    """A user.

    Args:
        server: the server, as this user.
        name: the name of the user.
        seen: counts the traces of others.
    """

    def __init__(self, server: RemoteServer, name: str, seen: Seen) -> None:
        self._server = server
        self._name = name
        self._seen = seen
        self._trace = f"trace-of-{name}"
        self._context: RemoteContext

    async def begin(self) -> str:
        """Start a context; return its id."""
        self._context = await self._server.start_context()
        await self._context.execute(BEGIN.format(name=self._name, trace=self._trace))
        return self._context.id

    async def look(self, others: list[str], contexts: list[str]) -> None:
        """Look for the other users, with code and as a client."""
        seen, name = self._seen, self._name
        await self._context.upload("uploaded", self._trace.encode())
        result = await self._context.execute(PRINT.format(lines=LINES))
        seen.look("outputs", name, result.stdout)
        expected = "".join(f"{self._trace} {number}\n" for number in range(LINES))
        seen["outputs that are missing"] += result.stdout != expected
        result = await self._context.execute(LOOK.format(others=others))
        if result.error is not None:
            seen[f"errors: {result.error.ename}: {result.error.evalue}"] += 1
        seen["traces in a sandbox"] += len(result.stdout.strip().splitlines())
        files = await self._context.files()
        seen["missing files"] += not {"trace", "uploaded"} <= {file.name for file in files.files}
        for file in files.files:
            if file.name in ("trace", "uploaded"):
                text = (await self._context.download(file.name)).decode()
                seen.look("files", name, text)
                seen["missing files"] += text != self._trace
        seen["contexts"] += [model.id for model in await self._server.contexts()] != [
            self._context.id
        ]
        for context_id in contexts:
            try:
                await self._server.context(context_id).files()
            except ContextNotFound:
                continue
            seen["contexts"] += 1


async def visit(url: str, users: list[str], rounds: int, seen: Seen) -> None:
    """Let all users look for each other."""
    contexts: dict[str, str] = {}
    begun = anyio.Event()

    async def one(number: int, name: str) -> None:
        async with connect_server(url, token=name) as server:
            visitor = Visitor(server, name, seen)
            contexts[name] = await visitor.begin()
            if len(contexts) == len(users):
                begun.set()
            await begun.wait()
            # The next ones: all pairs would be too many requests.
            others = [users[(number + step) % len(users)] for step in range(1, min(len(users), 6))]
            for _ in range(rounds):
                await visitor.look(others, [contexts[other] for other in others])

    async with anyio.create_task_group() as tasks:
        for number, name in enumerate(users):
            tasks.start_soon(one, number, name)


@contextmanager
def serving(folder: Path, users: list[str]) -> Iterator[str]:
    """Run a server that isolates the users; give its URL."""
    tokens, config = folder / "users.toml", folder / "server.toml"
    tokens.touch(0o600)
    tokens.write_text("".join(f'[{name}]\ntoken = "{hash_token(name)}"\n' for name in users))
    config.write_text(
        f'isolate = "users"\nkernel = "fork/kernel"\nauthentication = "file"\nport = 0\n'
        f'token_file = "{tokens}"\nmax_kernels = {len(users)}\n'
        f'[isolation]\nuids = "{FIRST}-{FIRST + len(users) - 1}"\nfolder = "{folder / "homes"}"\n'
    )
    command = [sys.executable, "-m", "kernelproto.server", "--config", str(config)]
    (folder / "runtime").mkdir(0o700)
    env = {**os.environ, "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://[\d.]+:\d+", process.stderr.readline())
            assert found is not None, process.stderr.read()
            yield found.group()
        finally:
            process.terminate()
            process.communicate(timeout=END_SECONDS)


def count_files(homes: Path, users: list[str], seen: Seen) -> None:
    """Count the files that do not belong to the user of their folder, or name another one."""
    numbers = {name: os.stat(homes / name).st_uid for name in users}
    seen["numbers of users"] += len(users) - len(set(numbers.values()))
    for name in users:
        for path in (homes / name).rglob("*"):
            seen["owners of files"] += path.lstat().st_uid != numbers[name]
        seen.look("files", name, (homes / name / "trace").read_text())


def processes(users: int) -> list[psutil.Process]:
    """Return the processes of the users."""
    numbers = range(FIRST, FIRST + users)
    return [
        process
        for process in psutil.process_iter(["uids"])
        if process.info["uids"] is not None and process.info["uids"].real in numbers
    ]


def look_for_others(count: int, rounds: int) -> Seen:
    """Run a server and its users; return everything that should not have been seen, or be left."""
    users = [f"user{number}" for number in range(count)]
    seen = Seen()
    folder = Path(tempfile.mkdtemp(prefix="kp-"))  # ipc sockets need a short path
    try:
        with serving(folder, users) as url:
            anyio.run(visit, url, users, rounds, seen)
            seen["processes that are missing"] += len(processes(count)) < 2 * count
        by = time.monotonic() + END_SECONDS
        while processes(count) and time.monotonic() < by:
            time.sleep(0.05)
        seen["processes that are left"] += len(processes(count))
        seen["files that are left"] += len(list((folder / "runtime").rglob("kernel-*")))
        count_files(folder / "homes", users, seen)
    finally:
        shutil.rmtree(folder)
    return seen


def main(count: int, rounds: int) -> int:
    """Print what was seen; return the exit status."""
    began = time.monotonic()
    seen = look_for_others(count, rounds)
    report = {"users": count, "rounds": rounds, "seconds": round(time.monotonic() - began, 1)}
    sys.stdout.write(json.dumps({**report, "seen": seen}, indent=1) + "\n")
    return 1 if seen.total() else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, [*sys.argv[1:], *("50", "3")[len(sys.argv) - 1 :]])))
