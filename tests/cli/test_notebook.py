from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from kernelproto.cli.errors import CliError
from kernelproto.cli.main import main
from kernelproto.cli.notebook import (
    Outcome,
    Task,
    format_outcomes,
    plan_tasks,
)
from kernelproto.cli.parameters import read_parameters

pytestmark = pytest.mark.usefixtures("no_leaks")

KERNEL = "pyimport/kernel"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes a notebook."""

    def write_notebook(name: str, *cells: str) -> Path:
        v4 = nbformat.v4
        notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
        path = tmp_path / f"{name}.ipynb"
        path.write_text(nbformat.writes(notebook))
        return path

    return write_notebook


def outputs(path: Path) -> list[str]:
    """Return the text or the name of the error of each cell."""
    return [
        "".join(output.get("text", output.get("ename")) for output in cell["outputs"])
        for cell in nbformat.read(path, 4)["cells"]
    ]


def test_notebooks_side_by_side(write, tmp_path: Path, capsys) -> None:
    good = write("good", "print(year, name)", "open('here', 'w').close()")
    bad = write("bad", "print(1)", "1 / 0", "print(2)")
    missing = tmp_path / "missing.ipynb"
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    out = tmp_path / "out"
    out.mkdir()

    words = ["notebook", *map(str, (good, bad, missing, broken)), "-o", str(out), "-k", KERNEL]
    words += ["-p", "year=2026", "-p", "name=a b", "--jobs", "2"]
    assert main(words) == 1

    table, errors = capsys.readouterr()
    assert [line.split()[1:3] for line in table.splitlines()[1:]] == [
        ["ok", "3/3"],
        ["error", "3/4"],
        ["failed", "0/0"],
        ["failed", "0/0"],
    ]
    assert "----> 1 1 / 0" in errors
    assert errors.splitlines()[-3:-1] == [
        f"error: {bad}: cell 3 of 4: ZeroDivisionError: division by zero",
        f"error: {missing}: No such file or directory",
    ]
    assert errors.splitlines()[-1].startswith(f"error: {broken} is not a valid notebook: ")
    assert outputs(out / "good.ipynb") == ["", "2026 a b\n", ""]
    assert outputs(out / "bad.ipynb") == ["", "1\n", "ZeroDivisionError", ""]
    assert outputs(good) == ["", ""]
    assert (tmp_path / "here").exists()  # kernels run where their notebooks are


def test_errors_are_allowed(write, capsys) -> None:
    notebook = write("notebook", "1 / 0", "print('after')")

    assert main(["notebook", str(notebook), "-k", KERNEL, "--allow-errors"]) == 0
    assert outputs(notebook) == ["ZeroDivisionError", "after\n"]
    assert re.fullmatch(
        f"{notebook}: cell 1 of 2, [0-9.]+ s, error\n{notebook}: cell 2 of 2, [0-9.]+ s\n",
        capsys.readouterr().err,
    )


def test_cell_that_takes_too_long(write, capsys) -> None:
    notebook = write("notebook", "while True: pass")

    assert main(["notebook", str(notebook), "-k", KERNEL, "--timeout", "0.2"]) == 1
    err = capsys.readouterr().err
    assert "cell 1 of 1 was interrupted after " in err
    assert err.endswith(" s: increase the timeout\n")


def test_interrupted_notebook_keeps_its_outputs(write, terminal) -> None:
    notebook = write("notebook", "print('before')", "import time; time.sleep(600)")

    screen = terminal("notebook", str(notebook), "-k", KERNEL, columns=120)
    screen.until("1/2")  # in the bar
    screen.until("time.sleep")
    screen.type("\x03")
    screen.until("stopped")
    assert screen.end() == 128 + signal.SIGINT
    assert outputs(notebook)[0] == "before\n"


def test_kernel_that_dies(write, kernelproto) -> None:
    notebook = write("notebook", "print('before')", "import os; os._exit(1)")

    done = kernelproto("notebook", str(notebook), "-k", KERNEL)

    assert re.fullmatch(
        f"{notebook}: cell 1 of 2, [0-9.]+ s\nerror: {notebook}: the kernel died: exit status 1\n",
        done.stderr,
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert outputs(notebook) == ["before\n", ""]


def test_parameters() -> None:
    words = ["a=1", "b=1.5", 'c=["x", null]', "d=x=y", "e=True", "f=None", "g=", ' h ="1"']
    assert read_parameters(words) == {
        "a": 1,
        "b": 1.5,
        "c": ["x", None],
        "d": "x=y",
        "e": True,
        "f": None,
        "g": "",
        "h": "1",
    }
    for words in (["a"], ["=1"]):
        with pytest.raises(CliError, match="NAME=VALUE"):
            read_parameters(words)


def test_parameter_that_can_have_no_name(write, tmp_path: Path, capsys) -> None:
    notebook = write("notebook", "open('started', 'w').close()")

    assert main(["notebook", str(notebook), "-k", KERNEL, "-p", "good=1", "-p", "1x=3"]) == 1
    assert capsys.readouterr() == (
        "",
        "error: '1x' is not a valid parameter name: use letters, digits and _, and begin "
        "with a letter or _\n",
    )
    assert not (tmp_path / "started").exists()


def test_where_notebooks_are_written(tmp_path: Path) -> None:
    a, b = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    assert plan_tasks([a, b], None) == [Task(a, a), Task(b, b)]
    assert plan_tasks([a], b) == [Task(a, b)]
    assert plan_tasks([a], tmp_path) == [Task(a, a)]
    with pytest.raises(CliError, match="is not a folder"):
        plan_tasks([a, b], tmp_path / "c")
    with pytest.raises(CliError, match="would both be written to"):
        plan_tasks([a, tmp_path / "sub" / "a.ipynb"], tmp_path)


def test_table() -> None:
    outcome = Outcome(status="ok", done=2, total=12, seconds=1.25)
    outcomes = {Task(Path("in"), Path("out")): outcome, Task(Path("b"), Path("b")): Outcome()}
    assert format_outcomes(outcomes, None, "utf-8") == [
        "NOTEBOOK  STATUS   CELLS   TIME  WRITTEN TO",
        "in        ok        2/12  1.2 s  out",
        "b         stopped    0/0  0.0 s",
    ]


def test_traceback_goes_to_stderr(write, kernelproto) -> None:
    notebook = write("notebook", "1 / 0")
    done = kernelproto("notebook", str(notebook), "-k", KERNEL)
    assert "----> 1 1 / 0" in done.stderr
    assert "1 / 0" not in done.stdout


def test_pipe_in_and_out(write, kernelproto) -> None:
    path = write("a", "6 * 7")
    done = kernelproto("notebook", "-", stdin=path.read_text())
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["outputs"][0]["data"]["text/plain"] == ["42"]
    assert "standard input" in done.stderr

    done = kernelproto("notebook", str(path), "-", stdin="")
    assert done.returncode == 1
    assert "- stands for one notebook" in done.stderr


def test_ctrl_c_before_the_notebook_has_come(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    class Stdin:
        buffer = property(lambda self: self)

        def read(self) -> bytes:
            signal.raise_signal(signal.SIGINT)
            return b""

    monkeypatch.setattr("sys.stdin", Stdin())
    assert main(["notebook", "-"]) == 130
    assert capsys.readouterr() == ("", "")  # nothing was executed


def test_log_instead_of_lines(write, kernelproto) -> None:
    path = write("a", "6 * 7")
    done = kernelproto("notebook", str(path), "-k", KERNEL, "-v")
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "cell 1 of 1, " in line]
    assert [" DEBUG kernelproto.cli.progress " in line for line in lines] == [True]


def test_errors_in_actions(write, tmp_path: Path, kernelproto) -> None:
    path = write("a", "x = 1", "def f():\n    return 1 / 0\nf()")
    path.write_text(path.read_text().replace('"tags": []', '"tags": ["parameters"]'))
    (line,) = (
        number for number, text in enumerate(path.read_text().splitlines(), 1) if "return 1" in text
    )

    done = kernelproto(
        *("notebook", str(path), "-k", KERNEL, "-p", "a=1", "--junit", str(tmp_path / "j.xml")),
        "--log-output",
        GITHUB_ACTIONS="true",
        GITHUB_WORKSPACE=str(tmp_path),
    )

    warning, error = (text for text in done.stderr.splitlines() if text.startswith("::"))
    assert warning.startswith("::warning file=a.ipynb,title=parameters::")
    start = f"::error file=a.ipynb,line={line},title=cell 3%3A ZeroDivisionError::"
    assert error.startswith(start)
    assert "%0A----> 3 f()%0A" in error
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert [[child.tag for child in case] for case in suite] == [[], [], ["failure"]]
    assert "ZeroDivisionError" in suite[2][0].text
    assert "\x1b" not in suite[2][0].text


def test_junit_file_without_a_folder(write, tmp_path: Path, capsys) -> None:
    path = write("a", "open('executed', 'w')")
    assert main(["notebook", str(path), "--junit", str(tmp_path / "no" / "j.xml")]) == 1
    assert "its folder does not exist" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_kept_kernel_resumes_a_notebook(write, tmp_path: Path, capsys) -> None:
    notebook = write("notebook", "import os; x = 6", "print(x * seven)", "print(os.getcwd())")
    work = tmp_path / "work"
    work.mkdir()

    words = ["notebook", str(notebook), "-k", KERNEL, "--keep-kernel", "--cwd", str(work)]
    assert main([*words, "--error-banner", "--log-output"]) == 1
    out, err = capsys.readouterr()
    kept = out.splitlines()[-1].partition("kernelproto console --existing ")[2]
    try:
        assert f"{notebook} | NameError: name 'seven' is not defined" in err.splitlines()
        assert err.count("----> 1") == 1
        first, _, second, *_ = nbformat.read(notebook, 4)["cells"]
        assert "cell 2 of 3</a>: NameError" in first["source"]
        assert "NameError" in second["source"]

        notebook.write_text(notebook.read_text().replace("* seven", "* 7"))
        resumed = ["notebook", str(notebook), "--existing", kept, "--from-cell", "2"]
        assert main([*resumed, "--log-output"]) == 0
        assert outputs(notebook) == ["", "42\n", f"{work}\n"]
        assert f"{notebook} | 42\n" in capsys.readouterr().err
    finally:
        assert main(["stop", kept]) == 0


def test_exit_ends_the_notebook(write, capsys) -> None:
    notebook = write("notebook", "import sys", "sys.exit(0)", "print('after')")
    assert main(["notebook", str(notebook), "-k", KERNEL]) == 0
    assert "2/3" in capsys.readouterr().out
    assert outputs(notebook)[2] == ""

    assert main(["notebook", str(notebook), "-k", KERNEL, "--no-exit-ok"]) == 1
    assert "cell 2 of 3: SystemExit: 0" in capsys.readouterr().err


def test_ipython_exit_ends_the_notebook(write, capsys) -> None:
    notebook = write("notebook", "exit()", "print('after')")
    assert main(["notebook", str(notebook), "-k", KERNEL]) == 0
    assert "1/2" in capsys.readouterr().out


def test_notebook_is_prepared_without_an_execution(write, kernelproto) -> None:
    path = write("a", "print(year)")
    done = kernelproto("notebook", str(path), "-o", "-", "--prepare-only", "-p", "year=1")
    assert done.returncode == 0, done.stderr
    parameters, cell = json.loads(done.stdout)["cells"]
    assert "year = 1" in "".join(parameters["source"])
    assert cell["outputs"] == []

    assert main(["notebook", str(path), "--prepare-only", "-p", "year=2"]) == 0
    assert "year = 2" in nbformat.read(path, 4)["cells"][0]["source"]


def test_kernel_that_starts_too_slowly(write, capsys) -> None:
    notebook = write("notebook", "1")
    assert main(["notebook", str(notebook), "-k", KERNEL, "--start-timeout", "0.1"]) == 1
    assert "the kernel was not ready after 0.1 s" in capsys.readouterr().err
