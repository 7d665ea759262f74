from __future__ import annotations

import json
import os
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.cli.list import format_table
from kernelproto.cli.main import main
from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.finder import KernelFinder

PROGRAM = [sys.executable, "-m", "kernelproto", "list"]


def describe(display_name: str, language: str) -> KernelAttributes:
    return {"display_name": display_name, "language": language}


KERNEL_TYPES = {
    "spec/ir": describe("R", "R"),
    "spec/python3": describe("Python 3 (ipykernel)", "python"),
    "other/bare": KernelAttributes(),
}


def test_table() -> None:
    assert format_table(KERNEL_TYPES) == [
        "NAME          DISPLAY NAME          LANGUAGE",
        "spec/ir       R                     R",
        "spec/python3  Python 3 (ipykernel)  python",
        "other/bare",
    ]


def test_narrow_terminal() -> None:
    assert format_table(KERNEL_TYPES, 38) == [
        "NAME          DISPLAY NAME    LANGUAGE",
        "spec/ir       R               R",
        "spec/python3  Python 3 (i...  python",
        "other/bare",
    ]
    assert format_table(KERNEL_TYPES, 1)[2] == "spec/python3  Python 3 ...  python"


def test_long_columns_shrink_alike() -> None:
    lines = format_table({"a/b": describe("n" * 90, "l" * 90)}, 48)
    assert lines[1] == f"a/b   {'n' * 17}...  {'l' * 17}..."


def test_wide_characters_take_two_columns() -> None:
    kernel_types = {"a/b": describe("日本語", "x"), "a/c": describe("e\u0301", "x")}
    assert format_table(kernel_types)[1:] == [
        "a/b   日本語        x",
        "a/c   e\u0301             x",
    ]
    assert format_table({"a/b": describe("日本語日本語日", "x")}, 1)[1] == "a/b   日本語日...   x"


def test_control_characters_are_replaced() -> None:
    line = format_table({"a/b\r": describe("evil\x1b[2J\n", "\N{RIGHT-TO-LEFT OVERRIDE}")})[1]
    assert line == "a/b?  evil?[2J?     ?"


def test_characters_missing_in_the_encoding_are_escaped() -> None:
    assert format_table({"a/b": describe("ü", "x")}, None, "ascii")[1] == r"a/b   \xfc          x"


@given(
    st.dictionaries(st.text(), st.builds(describe, st.text(), st.text()), max_size=4),
    st.none() | st.integers(-1, 200),
    st.sampled_from(["utf-8", "ascii", "latin-1", "cp932"]),
)
def test_any_table(
    kernel_types: dict[str, KernelAttributes], width: int | None, encoding: str
) -> None:
    lines = format_table(kernel_types, width, encoding)
    assert len(lines) == len(kernel_types) + 1
    assert all(line.isprintable() for line in lines)
    "".join(lines).encode(encoding)


class Provider:
    id = "odd"

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        yield "kernel", {"display_name": "Odd", "metadata": {"odd": PROGRAM, "set": object}}

    async def launch(self, *args: object, **options: object) -> None: ...


def test_json_of_any_attributes(monkeypatch, capfdbinary) -> None:
    monkeypatch.setattr(KernelFinder, "from_entrypoints", lambda: KernelFinder([Provider()]))
    assert main(["list", "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out) == {
        "odd/kernel": {
            "display_name": "Odd",
            "metadata": {"odd": PROGRAM, "set": "<class 'object'>"},
        }
    }


def test_table_of_them(monkeypatch, capsys) -> None:
    monkeypatch.setattr(KernelFinder, "from_entrypoints", lambda: KernelFinder([Provider()]))
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME        DISPLAY NAME  LANGUAGE",
        "odd/kernel  Odd",
    ]


def test_kernel_types_that_cannot_be_launched(monkeypatch, capsys) -> None:
    class Provider:
        id = "spec"

        async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
            yield "far", {"display_name": "Far", "language": "x", "unavailable": "ask docker"}

        async def launch(self, name, *, cwd=None, launch_params=None):
            raise NotImplementedError

    monkeypatch.setattr(KernelFinder, "from_entrypoints", lambda: KernelFinder([Provider()]))
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "spec/far  Far           x"
    assert err == "spec/far cannot be launched: ask docker\n"
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec/far"]["unavailable"] == "ask docker"


def test_no_kernels_at_all(monkeypatch, capsys) -> None:
    monkeypatch.setattr(KernelFinder, "from_entrypoints", lambda: KernelFinder([]))
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install ipykernel" in err
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


@pytest.fixture
def installed(runtime_dir) -> None:
    """Install a kernelspec that can be used, and two that can't."""
    for name, kernel_json in {
        "good": {"argv": ["good", "{connection_file}"], "display_name": "Gut", "language": "ü"},
        "bad": {"argv": 3},
        "worse": {"argv": ["worse"], "metadata": {"parameters": {"type": "objct"}}},
    }.items():
        folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", name)
        folder.mkdir(parents=True)
        folder.joinpath("kernel.json").write_text(json.dumps(kernel_json))


@pytest.mark.usefixtures("installed", "no_leaks")
def test_as_a_program() -> None:
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=True)
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["NAME", "DISPLAY", "NAME", "LANGUAGE"]
    assert ["spec/good", "Gut", "ü"] in [line.split() for line in lines]
    bad, worse = done.stderr.splitlines()
    assert bad.startswith("warning: kernelspec 'bad' is skipped: ")
    assert "'metadata.parameters'" in worse


@pytest.mark.usefixtures("installed", "no_leaks")
def test_as_a_program_for_programs() -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*PROGRAM, "--json"], stdout=subprocess.PIPE, env=env, check=True)
    good = json.loads(done.stdout)["spec/good"]
    assert good["argv"] == ["good", "{connection_file}"]
    assert good["language"] == "ü"


@pytest.mark.usefixtures("installed", "no_leaks")
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_reader_that_has_seen_enough(arguments) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PROGRAM, *arguments], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert all(line.startswith("warning: kernelspec") for line in done.stderr.splitlines())


@pytest.mark.usefixtures("installed", "no_leaks")
def test_on_a_terminal() -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    subprocess.run(PROGRAM, stdout=theirs, stderr=subprocess.DEVNULL, env=env, check=True)
    os.close(theirs)
    lines = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    (line,) = (line for line in lines if line.startswith("pyimport/kernel "))
    assert "..." in line
    assert max(map(len, lines[1:])) <= 40
