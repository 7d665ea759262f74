"""A server whose kernels and sessions go on without it; see server_kills.py for random moments."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelproto.cli.main import main
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.process.confinement import users_fault
from kernelproto.launch.process.sandbox import Sandbox
from tests.integration.server_kills import Page, Round, Server, kill_servers, strays
from tests.registry.conftest import postgres, postgres_or_reason  # noqa: F401
from tests.registry.postgres import Postgres

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are adopted on Linux only"),
]

GUARD_SECONDS = 60


@pytest.fixture
def server(runtime_dir: Path) -> Iterator[Server]:
    server = Server(runtime_dir.parent)
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.end(signal.SIGINT)
    server.client.close()
    for record in read_records(str(server.runtime)):
        record.clear_up()


def open_notebook(server: Server, path: str = "a.ipynb") -> tuple[dict, Page]:
    session = server.post("/api/sessions", Round.document(path))
    page = Page(server, session["kernel"]["id"])
    page.open()
    return session, page


def again(server: Server, signum: int) -> None:
    server.end(signum)
    server.start()


def test_kernels_and_sessions_go_on(server: Server) -> None:
    session, page = open_notebook(server)
    pid = page.execute("import os; x = 42; print(os.getpid())")
    for signum in (signal.SIGTERM, signal.SIGKILL):
        before = server.get("/api/kernels")[0]
        again(server, signum)
        (after,) = server.get("/api/sessions")
        assert {**after, "kernel": None} == {**session, "kernel": None}
        assert after["kernel"]["id"] == before["id"]
        page.open()
        if signum == signal.SIGTERM:  # otherwise that of some seconds before
            assert after["kernel"]["last_activity"] >= before["last_activity"]
        assert page.execute("print(os.getpid(), x)") == f"{pid} 42"
    # The path of a session changes, and the session ends.
    one = f"/api/sessions/{session['id']}"
    assert server.client.patch(one, json={"path": "b.ipynb"}).status_code == 200
    again(server, signal.SIGKILL)
    assert server.get(one)["path"] == "b.ipynb"
    assert server.client.delete(one).status_code == 204
    again(server, signal.SIGKILL)
    assert server.get("/api/sessions") == server.get("/api/kernels") == []


def test_registry_in_postgresql(
    postgres: Postgres,  # noqa: F811
    runtime_dir: Path,
    tmp_path: Path,
) -> None:
    server = Server(runtime_dir.parent, KERNELPROTO_REGISTRY=postgres.url)
    server.start()
    try:
        session, page = open_notebook(server)
        page.execute("x = 42")
        second = Server(tmp_path, KERNELPROTO_REGISTRY=postgres.url)  # with another state folder
        with pytest.raises(AssertionError, match="another program uses the registry"):
            second.start()
        second.client.close()
        again(server, signal.SIGKILL)
        assert [found["id"] for found in server.get("/api/sessions")] == [session["id"]]
        page.open()
        assert page.execute("print(x)") == "42"
        page.close()
        assert not (server.state / "kernels.sqlite").exists()
    finally:
        server.end(signal.SIGINT)
        server.client.close()
    assert postgres.execute("select * from kernelproto.kernel") == []


def test_interrupt_ends_the_kernels(server: Server) -> None:
    _, page = open_notebook(server)
    page.close()
    server.end(signal.SIGINT)
    assert server.process is not None
    assert server.process.returncode == 0
    assert list(server.runtime.rglob("*")) == []
    server.start()
    assert server.get("/api/kernels") == server.get("/api/sessions") == []


# Waits for a file, between two others.
WAIT = """
open({0!r} + ".begun", "w").close()
while not os.path.exists({0!r}): time.sleep(0.01)
print({1!r})
open({0!r} + ".done", "w").close()
"""


def test_cells_under_way(server: Server, tmp_path: Path) -> None:
    _, page = open_notebook(server)
    page.execute("import os, time")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    lost = page.send(WAIT.format(one, "lost"))
    kept = page.send(WAIT.format(two, "kept"))
    failed = page.send("1 / 0")
    aborted = page.send("print('never')")
    wait_until(lambda: note_of(server).count("msg_id") == 4)
    wait_until(Path(f"{one}.begun").exists)
    server.end(signal.SIGKILL)
    Path(one).touch()  # the first cell ends while no server runs; a host keeps its messages
    wait_until(Path(f"{two}.begun").exists)
    server.start()
    page.open()
    Path(two).touch()
    assert page.read(lost) == "lost\n"
    assert page.read(kept) == "kept\n"
    for cell in (failed, aborted):
        page.read(cell)
    replies = [page.replies[cell] for cell in (lost, kept, failed, aborted)]
    assert replies == ["ok", "ok", "error", "aborted"]
    assert page.execute("print('next')") == "next"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GUARD_SECONDS
    while not holds():
        assert time.monotonic() < deadline


def note_of(server: Server) -> str:
    database = sqlite3.connect(server.state / "kernels.sqlite")
    (note,) = database.execute("select note from kernel").fetchone()
    database.close()
    return note


def test_writes_do_not_grow_with_executions(server: Server) -> None:
    _, page = open_notebook(server)
    database = sqlite3.connect(server.state / "kernels.sqlite")
    count = "pragma data_version"  # changes with each commit of another connection
    seen: set[int] = set()
    began = time.monotonic()
    for _ in range(100):
        page.execute("pass")
        seen.add(database.execute(count).fetchone()[0])
    seconds = time.monotonic() - began
    database.close()
    assert len(seen) <= 12 + 1.5 * seconds  # ten notes at once, one a second, and renewals


def test_other_servers_are_refused(server: Server) -> None:
    command = [sys.executable, "-m", "kernelproto.server", "--port", "0"]
    command += ["--state-dir", str(server.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_SECONDS)
    assert done.returncode == 1
    assert server.process is not None
    assert f"the server with process id {server.process.pid} uses" in done.stderr


def test_damaged_registry(server: Server, tmp_path: Path) -> None:
    _, page = open_notebook(server)
    page.close()
    server.end(signal.SIGKILL)
    for path in server.state.glob("kernels.sqlite*"):
        path.write_bytes(b"nonsense " * 1000)
    with pytest.raises(AssertionError, match="it is damaged: move it away"):
        server.start()
    for path in server.state.glob("kernels.sqlite*"):
        path.rename(tmp_path / path.name)
    server.start()
    assert server.get("/api/kernels") == []
    (record,) = read_records(str(server.runtime))  # the kernel goes on, and `kernelproto ps` has it
    assert record.process is not None
    assert not record.process.is_gone
    assert main(["stop", "--kept"]) == 0  # its host ends, too


@pytest.mark.skipif(
    sys.platform != "linux" or users_fault(Sandbox(uid=200_000)) is not None,
    reason="this machine cannot isolate users",
)
def test_isolated_kernel_stays_isolated(runtime_dir: Path) -> None:
    folder = runtime_dir.parent
    folder.chmod(0o755)
    config = folder / "config.toml"
    homes = f'uids = "200000-200999"\nfolder = "{folder / "homes"}"'
    config.write_text(f'isolate = "users"\n[isolation]\n{homes}\n')
    (folder / "homes").mkdir(mode=0o755)
    server = Server(folder, "--config", str(config))
    server.start()
    try:
        _, page = open_notebook(server)
        page.execute("import os; x = 42")
        again(server, signal.SIGKILL)
        page.open()
        assert page.execute("print(os.getuid(), x)") == "200000 42"
        server.post(f"/api/kernels/{page.kernel_id}/restart")
        assert page.execute("import os; print(os.getuid())") == "200000"
        page.close()
    finally:
        server.end(signal.SIGINT)
        server.client.close()


def test_kernel_ends_when_no_server_comes_back(runtime_dir: Path) -> None:
    server = Server(runtime_dir.parent, KERNELPROTO_LINGER_SECONDS="1")
    server.start()
    _, page = open_notebook(server)
    page.execute("pass")
    page.close()
    server.end(signal.SIGKILL)
    assert strays(server, set(), GUARD_SECONDS, kernels_only=False) == []
    assert list(server.runtime.rglob("*")) == []
    server.start()  # the registry has the row of the kernel
    assert server.get("/api/kernels") == server.get("/api/sessions") == []
    server.end(signal.SIGINT)
    server.client.close()


def test_kernel_without_a_host_is_refused_with_linger(runtime_dir: Path) -> None:
    server = Server(runtime_dir.parent, KERNELPROTO_LINGER_SECONDS="60")
    server.start()
    body = {"name": "pyimport/kernel", "launch_params": {"sandbox": {}}}
    answer = server.client.post("/api/kernels", json=body)
    server.end(signal.SIGINT)
    server.client.close()
    assert answer.status_code == 400
    assert "a host starts no kernels in a sandbox" in answer.json()["message"]


def test_kills_at_random_moments(runtime_dir: Path) -> None:
    """A short form of server_kills.py."""
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    faults = kill_servers(
        signals,
        "suite",
        runtime_dir.parent,
        actions=("launch", "execute", "flood", "patch", "cull"),
        last=signal.SIGINT,
    )
    assert faults == []
