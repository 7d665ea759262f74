"""Kill a server that keeps its kernels at random moments, and check the next server each time.

Run by hand: ``python -m tests.integration.server_kills [--kills 100] [--sigterms 30] [--seed 1]``.
Each time a client launches a kernel, executes a cell, prints 20,000 lines, restarts a kernel, waits
until a kernel is culled, or changes a session, and SIGKILL or SIGTERM ends the server meanwhile.
Then the next server must have the same kernels with the same variables and sessions, the open page
must learn how its cell has ended, each kernel must have one process and one owner, and no other
process or file may be left. The lines are printed during the kill, while no server runs, and after
it. A page that names its last message when it comes back must get each line once, every other page
at least once, and both in order.

In the end the server is killed and not started again: after ``linger_seconds`` no process and no
file may be left. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from kernelproto.launch.leftovers.records import Record, read_records
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

GUARD_SECONDS = 60.0
LOST_SECONDS = 10.0
LINES = 20_000
# Two seconds or more, in many messages.
FLOOD = f"""
for n in range({LINES}):
    print(n, flush=n % 20 == 0)
    if n % 200 == 0: time.sleep(0.02)
"""
CULL_SECONDS = 0.5
LINGER_SECONDS = 30.0
TOKEN = "secret"
SHARE = Path(__file__).with_name("share")
GONE = (OSError, httpx.TransportError, WebSocketException)


class Faults(list[str]):
    """Everything that was wrong."""

    def check(self, holds: object, words: str) -> None:
        if not holds:
            self.append(words)
            report(f"WRONG: {words}")


class Server:
    """A server program, started again and again on the same port and folders.

    Attributes:
        client: a client with the token.
        runtime: Jupyter's runtime folder.
        state: the state folder.
        url: the address.
    """

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self.runtime = folder / "runtime"
        self.state = folder / "state"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._command = [
            *(sys.executable, "-m", "kernelproto.server", "--port", str(port)),
            *("--state-dir", str(self.state), "--max-per-user", "20", *arguments),
        ]
        for name in ("runtime", "data", "config", "ipython", "root"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        self._cwd = folder / "root"
        self._env = {
            **os.environ,
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_PATH": str(SHARE),
            "IPYTHONDIR": str(folder / "ipython"),
            "KERNELPROTO_TOKEN": TOKEN,
            **env,
        }
        self.url = f"http://127.0.0.1:{port}"
        headers = {"authorization": f"token {TOKEN}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=GUARD_SECONDS)
        self.process: subprocess.Popen[str] | None = None
        self.log = ""

    def start(self) -> None:
        """Start the server; return when it listens."""
        self.process = subprocess.Popen(
            self._command, env=self._env, cwd=self._cwd, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        while "serving kernels" not in (line := self.process.stderr.readline()):
            self.log += line
            if not line:
                self.process.stderr.close()
                self.process.wait()
                raise AssertionError(f"the server has ended: {self.log}")
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()

    def end(self, signum: int) -> None:
        """Send a signal, and wait for the end of the server."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signum)
        self.process.wait(GUARD_SECONDS)
        self.client.close()
        self.client = httpx.Client(
            base_url=self.url, headers=self.client.headers, timeout=GUARD_SECONDS
        )

    def connect(
        self, kernel_id: str, session: str, last: str | None = None
    ) -> AbstractContextManager[ClientConnection]:
        return connect(
            f"{self.url.replace('http', 'ws', 1)}/api/kernels/{kernel_id}/channels"
            f"?session_id={session}&token={TOKEN}" + (f"&last_msg_id={last}" if last else ""),
            subprotocols=[V1_SUBPROTOCOL],
            max_size=None,
            proxy=None,
        )

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, body: object = None) -> Any:
        return self.client.post(path, json=body).raise_for_status().json()

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self.log += line


class Page:
    """An open page: it keeps its session, and connects again when the server is back.

    Attributes:
        names_last: whether it names its last message then; JupyterLab does not.
    """

    names_last = True

    def __init__(self, server: Server, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        self._server = server
        self._session = uuid.uuid4().hex
        self._socket: ClientConnection | None = None
        self._stack = ExitStack()
        self._framing = client_framing(V1_SUBPROTOCOL)
        self._ends: dict[str, set[str]] = {}
        self._last: str | None = None
        self.answered: set[str] = set()  # the cells with any message
        self.texts: dict[str, str] = {}
        self.replies: dict[str, str] = {}

    def open(self) -> None:
        self.close()
        last = self._last if self.names_last else None
        connection = self._server.connect(self.kernel_id, self._session, last)
        self._socket = self._stack.enter_context(connection)

    def close(self) -> None:
        self._stack.close()

    def send(self, code: str) -> str:
        """Send a cell; return the id of the request."""
        assert self._socket is not None
        msg_id = uuid.uuid4().hex
        header = Header(
            msg_id=msg_id, msg_type="execute_request", session=self._session, version="5.4"
        )
        self._ends[msg_id] = {"reply", "idle"}
        self.texts[msg_id] = ""
        self._socket.send(self._framing.encode("shell", Message.build(header, {"code": code})))
        return msg_id

    def read(self, msg_id: str, seconds: float = GUARD_SECONDS) -> str:
        """Read until a cell has ended; return its text."""
        deadline = time.monotonic() + seconds
        while self._ends[msg_id]:
            assert self._socket is not None
            _, message = self._framing.decode(
                self._socket.recv(timeout=max(0.0, deadline - time.monotonic()))
            )
            self._last = message.msg_id
            parent = message.parent_header.msg_id if message.parent_header is not None else ""
            if parent not in self._ends:
                continue
            self.answered.add(parent)
            match message.msg_type:
                case "stream":
                    self.texts[parent] += message.content.text
                case "execute_reply":
                    self._ends[parent].discard("reply")
                    self.replies[parent] = message.content.status
                case "status" if message.content.execution_state == "idle":
                    self._ends[parent].discard("idle")
        return self.texts[msg_id]

    def execute(self, code: str) -> str:
        return self.read(self.send(code)).strip()


class Round:
    """One client that works, a kill of the server meanwhile, and the checks afterwards."""

    def __init__(self, server: Server, dice: random.Random, faults: Faults) -> None:
        self.server = server
        self.dice = dice
        self.faults = faults
        self.x = 0
        self.begun: str | None = None
        self.unread = 0
        self.floods = 0
        self.aborted = 0
        self.repeated = 0
        self.path = "a.ipynb"
        self.found_after: list[float] = []
        session = server.post("/api/sessions", self.document(self.path))
        self.session_id = session["id"]
        self.page = Page(server, session["kernel"]["id"])
        self.page.open()
        self.pid = self.page.execute("import os, time; x = 0; print(os.getpid())")

    @staticmethod
    def document(path: str) -> dict[str, object]:
        return {"path": path, "type": "notebook", "kernel": {"name": "pyimport/kernel"}}

    def run(self, action: str, signum: int) -> None:
        """Begin an action, kill the server a random time later, start the next one, and check."""
        perform: Callable[[], object] = getattr(self, action)
        self.begun = None
        work = threading.Thread(target=suppressed, args=(perform,))
        work.start()
        time.sleep(self.dice.uniform(0, 1.5))
        self.server.end(signum)
        work.join(GUARD_SECONDS)
        time.sleep(self.dice.uniform(0, 1.5))
        began = time.monotonic()
        self.server.start()
        with self.faults_named(action):
            self.wait_until_ready()
            self.found_after.append(time.monotonic() - began)
            getattr(self, f"check_{action}")()
            self.check_kept()
            self.check_processes()

    @contextmanager
    def faults_named(self, action: str) -> Iterator[None]:
        before = len(self.faults)
        try:
            yield
        except Exception as error:
            self.faults.check(False, f"{type(error).__name__}: {error}")
        for number in range(before, len(self.faults)):
            self.faults[number] = f"{action}: {self.faults[number]}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + GUARD_SECONDS
        while any(
            each["execution_state"] == "starting" for each in self.server.get("/api/kernels")
        ):
            assert time.monotonic() < deadline, "a kernel is still starting"
            time.sleep(0.01)

    def check_kept(self) -> None:
        """Check the session, the kernel and its variables; end all other kernels."""
        session = self.server.get(f"/api/sessions/{self.session_id}")
        kernel_id = session["kernel"]["id"]
        self.faults.check(kernel_id == self.page.kernel_id, "the session has another kernel")
        self.page.open()
        pid, x = self.page.execute("print(os.getpid(), x)").split()
        self.faults.check(pid == self.pid, f"the process is {pid}, and was {self.pid}")
        self.faults.check(int(x) == self.x, f"x is {x}, and was {self.x}")
        for kernel in self.server.get("/api/kernels"):
            if kernel["id"] != kernel_id:
                self.server.client.delete(f"/api/kernels/{kernel['id']}")
        sessions = [each["id"] for each in self.server.get("/api/sessions")]
        self.faults.check(sessions == [self.session_id], f"there are other sessions: {sessions}")

    def check_processes(self) -> None:
        """Check that each kernel has one process and one owner, and that there are no others."""
        listed = {each["id"] for each in self.server.get("/api/kernels")}
        records = read_records(str(self.server.runtime))
        names = Counter(record.listed_as or record.kernel_id for record in records)
        self.faults.check(
            set(names) == listed and set(names.values()) <= {1},
            f"there are records of {dict(names)}, and kernels {listed}",
        )
        server = self.server.process.pid if self.server.process is not None else 0
        for record in records:
            owner = owner_of(record)
            # A host gives a kernel to one program at a time.
            is_host = record.host is not None and owner in hosts_in(record.host)
            self.faults.check(
                owner == server or is_host, f"a kernel belongs to {owner}, not to {server}"
            )
        known = {record.process.pid for record in records if record.process is not None}
        self.faults.check(not (left := strays(self.server, known)), f"processes are left: {left}")

    def launch(self) -> None:
        self.server.post("/api/sessions", self.document("b.ipynb"))

    def check_launch(self) -> None:
        for session in self.server.get("/api/sessions"):
            if session["id"] != self.session_id:
                self.faults.check(session["path"] == "b.ipynb", f"there is a session {session}")
                page = Page(self.server, session["kernel"]["id"])
                page.open()
                self.faults.check(page.execute("print(6 * 7)") == "42", "the new kernel is mute")
                page.close()
                self.server.client.delete(f"/api/sessions/{session['id']}")

    def execute(self) -> None:
        self.begun = self.page.send("x += 1; time.sleep(0.5); print('done')")
        self.page.read(self.begun)

    def finish_cell(self) -> str | None:
        """Read the rest of the cell that was sent; return its status, None if it never arrived."""
        self.page.open()
        if self.begun is None:
            return None
        try:
            self.page.read(self.begun, LOST_SECONDS)
        except TimeoutError:
            if self.begun not in self.page.answered:
                # The client has sent it, and the server was killed before it read it.
                self.unread += 1
                return None
            self.page.read(self.begun)
        return self.page.replies[self.begun]

    def check_execute(self) -> None:
        status = self.finish_cell()
        x = int(self.page.execute("print(x)"))
        if status is None and self.begun is not None:
            self.faults.check(x == self.x, "a cell was executed without a reply")
        self.faults.check(x in (self.x, self.x + 1), f"x is {x} after {self.x}")
        if status == "ok":
            self.faults.check(x == self.x + 1, "a cell that was not executed was ok")
        self.x = x

    def flood(self) -> None:
        self.page.names_last = self.dice.random() < 0.5
        self.begun = self.page.send(FLOOD)
        self.page.read(self.begun)

    def check_flood(self) -> None:
        status = self.finish_cell()
        names_last, self.page.names_last = self.page.names_last, True
        if self.begun is None or status is None:
            return
        text = self.page.texts[self.begun]
        if status == "aborted":
            self.faults.check("execute it again" in text, f"a flood was aborted: {text[-500:]}")
            self.aborted += 1
            return
        self.floods += 1
        lines = list(map(int, text.split()))
        fresh: list[int] = []
        for line in lines:
            if not fresh or line > fresh[-1]:
                fresh.append(line)
        self.repeated += len(lines) - len(fresh)
        missing = LINES - len(fresh)
        self.faults.check(not missing, f"{missing} lines are missing")
        is_once = len(lines) == len(fresh) or not names_last
        self.faults.check(is_once, f"{len(lines) - len(fresh)} lines are repeated")

    def restart(self) -> None:
        self.server.post(f"/api/kernels/{self.page.kernel_id}/restart")

    def check_restart(self) -> None:
        self.page.open()
        pid = self.page.execute("import os, time; print(os.getpid())")
        if pid != self.pid:
            self.pid, self.x = pid, 0
            self.page.execute("x = 0")

    def cull(self) -> None:
        self.server.post("/api/kernels", {"name": "scripted"})
        time.sleep(GUARD_SECONDS)

    def check_cull(self) -> None:
        deadline = time.monotonic() + GUARD_SECONDS
        while len(self.server.get("/api/kernels")) > 1:
            assert time.monotonic() < deadline, "a kernel is not culled"
            time.sleep(0.01)

    def patch(self) -> None:
        self.before = self.page.kernel_id
        one = f"/api/sessions/{self.session_id}"
        self.server.client.patch(one, json={"path": "c.ipynb"})
        self.server.client.patch(one, json={"kernel": {"name": "pyimport/kernel"}})

    def check_patch(self) -> None:
        session = self.server.get(f"/api/sessions/{self.session_id}")
        is_known = session["path"] in (self.path, "c.ipynb")
        self.faults.check(is_known, f"the path is {session['path']}")
        self.path = session["path"]
        if session["kernel"]["id"] != self.before:
            self.faults.check(self.path == "c.ipynb", "the second change came without the first")
            self.page.close()
            self.page = Page(self.server, session["kernel"]["id"])
            self.page.open()
            self.pid, self.x = self.page.execute("import os, time; x = 0; print(os.getpid())"), 0

    def finish(self, signum: int) -> None:
        """End the server, and check that nothing is left: after SIGKILL, when linger is over."""
        self.page.close()
        self.server.end(signum)
        seconds = 5.0
        if signum == signal.SIGKILL:
            kernels = len(strays(self.server, set(), 0.0))
            self.faults.check(kernels == 1, f"{kernels} processes of kernels go on after the kill")
            seconds += LINGER_SECONDS
        left = strays(self.server, set(), seconds, kernels_only=False)
        self.faults.check(not left, f"processes are left in the end: {left}")
        files = [str(path) for path in self.server.runtime.rglob("*")]
        self.faults.check(not files, f"files are left in the end: {files}")


ACTIONS = ("launch", "execute", "flood", "restart", "cull", "patch")


def suppressed(perform: Callable[[], object]) -> None:
    with suppress(*GONE, httpx.HTTPStatusError, TimeoutError, AssertionError):
        perform()


def owner_of(record: Record) -> int | None:
    holder = record.ownership.holder
    return None if holder is None else holder.pid


def hosts_in(folder: str) -> set[int]:
    """Return the processes of the host in a folder."""
    found: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if folder in process.cmdline():
                found.add(process.pid)
    return found


def strays(
    server: Server, known: set[int], seconds: float = 5.0, *, kernels_only: bool = True
) -> list[str]:
    """Return the command lines of kernels' processes that are not known, after some time at most.

    Args:
        server: the server; the programs that it has started have its runtime folder.
        known: the numbers of the processes that may run.
        seconds: how long to wait for the end of the others.
        kernels_only: whether hosts, fork servers and watchdogs may run as well.
    """
    deadline = time.monotonic() + seconds
    while True:
        found: list[str] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                is_ours = env.get("JUPYTER_RUNTIME_DIR") == str(server.runtime)
                is_kernel = "KERNELPROTO_KERNEL_ID" in env or not kernels_only
                if is_ours and is_kernel and process.pid not in known:
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def kill_servers(
    signals: Sequence[signal.Signals],
    seed: str,
    folder: Path,
    *,
    actions: Sequence[str] = ACTIONS,
    last: int = signal.SIGKILL,
) -> Faults:
    """End a server by each signal during the actions in turn; return everything that was wrong.

    Args:
        signals: the signals.
        seed: decides the moments.
        folder: an empty folder for everything.
        actions: names of methods of Round.
        last: the signal in the end; after SIGKILL, the end of linger is awaited.
    """
    faults, dice, counts = Faults(), random.Random(seed), Counter[str]()
    config = folder / "config.toml"
    config.write_text(
        f"linger_seconds = {LINGER_SECONDS}\n"
        f'[limits.kernels."spec/scripted"]\nidle_timeout = {CULL_SECONDS}\n'
    )
    server = Server(folder, "--config", str(config))
    server.start()
    try:
        one = Round(server, dice, faults)
        for number, signum in enumerate(signals):
            action = actions[number % len(actions)]
            counts[f"{action} {signum.name}"] += 1
            one.run(action, signum)
        one.finish(last)
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGINT)
            server.process.wait(GUARD_SECONDS)
        server.client.close()
        for record in read_records(str(server.runtime)):
            record.clear_up()
    if one.found_after:
        times_found = sorted(one.found_after)
        report(
            f"seed {seed}: ended {len(signals)} times: {dict(counts)}; the next server had its "
            f"kernels ready {times_found[len(times_found) // 2]:.2f} s (median) to "
            f"{times_found[-1]:.2f} s after its start; {one.unread} cells were sent and never "
            f"read; {one.floods} floods of {LINES} lines went on, {one.aborted} were never begun; "
            f"pages without the name of their last message got {one.repeated} lines again; wrong: "
            f"{faults or 'nothing'}"
        )
    if faults:
        report(server.log)
    return faults


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """End a server many times; print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--sigterms", type=int, default=30)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--actions", default=",".join(ACTIONS))
    options = parser.parse_args()
    signals = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.sigterms
    random.Random(options.seed).shuffle(signals)
    with tempfile.TemporaryDirectory(prefix="kp-") as folder:
        actions = options.actions.split(",")
        return 1 if kill_servers(signals, options.seed, Path(folder), actions=actions) else 0


if __name__ == "__main__":
    sys.exit(main())
