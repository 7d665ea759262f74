"""``kernelproto notebook`` with URLs."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import nbformat
import pytest

from kernelproto.cli.errors import CliError
from kernelproto.cli.main import main
from kernelproto.cli.notebook import Task, plan_tasks

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def memory() -> Iterator[Any]:
    """Give an empty file system."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def notebook(*codes: str) -> bytes:
    v4 = nbformat.v4
    cells = [v4.new_code_cell(code, metadata={"tags": ["parameters"]}) for code in codes]
    return nbformat.writes(v4.new_notebook(cells=cells)).encode()


def outputs(data: bytes) -> list[str]:
    cells = nbformat.reads(data.decode(), 4)["cells"]
    return ["".join(output["text"] for output in cell["outputs"]) for cell in cells]


def test_targets() -> None:
    a, b = "memory://in/a.ipynb", "memory://in/b.ipynb?secret=1"
    folder = Path()

    assert plan_tasks([a], "memory://out/c.ipynb") == [Task(a, "memory://out/c.ipynb")]
    assert plan_tasks([a], "memory://out/") == [Task(a, "memory://out/a.ipynb")]
    assert plan_tasks([a, b], "memory://out") == [
        Task(a, "memory://out/a.ipynb"),
        Task(b, "memory://out/b.ipynb"),
    ]
    assert plan_tasks([a, b], folder) == [Task(a, folder / "a.ipynb"), Task(b, folder / "b.ipynb")]
    assert [task.name for task in plan_tasks([a, b], folder)] == [a, "memory://in/b.ipynb"]
    with pytest.raises(CliError, match=r"memory://in/a.ipynb is not overwritten: pass -o"):
        plan_tasks([a], None)
    with pytest.raises(CliError, match=r"would both be written to memory://out/a.ipynb"):
        plan_tasks([a, "memory://other/a.ipynb"], "memory://out")
    with pytest.raises(CliError, match="memory://in/ has no file name"):
        plan_tasks(["memory://in/", a], folder)


def test_notebook_and_parameters_in_memory(memory, capsys) -> None:
    memory.pipe_file("/in.ipynb", notebook("x = 1", "print(x)"))
    memory.pipe_file("/p.yaml", b"x: 2")
    words = ["notebook", "memory://in.ipynb", "-f", "memory://p.yaml"]

    assert main([*words, "--help-parameters"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["x", "int", "1"]
    assert main([*words, "-o", "memory://out.ipynb"]) == 0
    assert outputs(memory.cat_file("/out.ipynb")) == ["", "", "2\n"]
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "memory://out.ipynb"


def test_missing_client(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "kernelproto.extras.find_spec", lambda name: name not in ("fsspec",) or None
    )
    source = tmp_path / "in.ipynb"
    source.write_bytes(notebook("open('executed', 'w')"))

    assert main(["notebook", str(source), "-o", "s3://bucket/out.ipynb"]) == 1
    assert 'fsspec cannot be imported: pip install "kernelproto[remote]"' in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


class _Store(http.server.BaseHTTPRequestHandler):
    """Keeps the bodies of PUT requests, and returns them."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        data = self.files.get(self.path.partition("?")[0])
        self._reply(200 if data is not None else 404, data or b"")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.files[self.path] = body
        self._reply(201 if "read-only" not in self.path else 405, b"")

    def log_message(self, format: str, *arguments: object) -> None: ...

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def store() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Give the address of a server that keeps files, and its files."""
    handler = type("Store", (_Store,), {"files": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.files
        server.shutdown()
        thread.join()


def test_notebooks_over_http(store, kernelproto) -> None:
    address, files = store
    files["/in.ipynb"] = notebook("print(6 * 7)")

    done = kernelproto("notebook", f"{address}/in.ipynb?token=secret", "-o", f"{address}/out.ipynb")
    assert done.returncode == 0, done.stderr
    assert outputs(files["/out.ipynb"]) == ["42\n"]
    assert "secret" not in done.stdout + done.stderr

    done = kernelproto("notebook", f"{address}/missing.ipynb", "-o", f"{address}/out.ipynb")
    assert done.returncode == 1
    assert f"error: {address}/missing.ipynb: No such file\n" in done.stderr

    done = kernelproto("notebook", f"{address}/in.ipynb", "-o", f"{address}/read-only")
    assert done.returncode == 1
    assert f"error: {address}/in.ipynb: {address}/read-only cannot be written: 405" in done.stderr
