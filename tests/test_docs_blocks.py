"""Run every code block and the terminal session of the documentation, as CONTRIBUTING.md says."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import anyio
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# A fence starts at the beginning of a line; an indented one would be missed.
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"\n]+)")?\n(?P<text>.*?)^```$'
    r"(?:\n+```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)

COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: the page.
        line: the number of the block's first line on the page.
        language: the language of the block.
        title: the name of the file to write the block to, or None.
        text: the code.
        output: the output on the page, or None; ``...`` matches any text.
        reason: why the block is not run, or None.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str
    output: str | None
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            page=f"{page.relative_to(ROOT)}",
            line=text.count("\n", 0, found.start("text")) + 1,
            **found.groupdict(),
        )
        for found in FENCE.finditer(text)
    ]


BLOCKS = {f"{block.page}:{block.line}": block for page in PAGES for block in blocks_of(page)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, make its modules importable, and put this Python first on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    return tmp_path


@pytest.mark.usefixtures("quick_kernels")
@pytest.mark.parametrize(
    "block", [pytest.param(block, id=place) for place, block in BLOCKS.items()]
)
def test_block(block: Block, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if block.reason:
        pytest.skip(block.reason)
    titled = {
        other.title: other for other in BLOCKS.values() if other.page == block.page and other.title
    }
    for title, other in titled.items():
        folder.joinpath(title).write_text(other.text, "utf-8")
    modules = set(sys.modules)
    for run in RUNNERS[block.language](block):
        run()
        for module in set(sys.modules) - modules:
            if f"{module}.py" in titled:
                del sys.modules[module]
        if block.output is not None:
            assert_same(block.output, capfd.readouterr().out)


def python(block: Block) -> list[Callable[[], object]]:
    """Run a program. If it awaits outside of functions, run it on asyncio and on Trio."""
    # Prepend empty lines, so that tracebacks have the line numbers of the page.
    source = "\n" * (block.line - 1) + block.text
    code = compile(
        source, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    if code.co_flags & inspect.CO_COROUTINE:
        run = partial(anyio.run, partial(awaiting, code))
        return [partial(run, backend=backend) for backend in ("asyncio", "trio")]
    return [partial(exec, code, {"__name__": "__main__"})]


async def awaiting(code: CodeType) -> None:
    await eval(code, {"__name__": "__main__"})


def console(block: Block) -> list[Callable[[], object]]:
    """Run the commands after each ``$``, and compare their output."""
    return [partial(run_commands, block)]


def run_commands(block: Block) -> None:
    first, *commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert commands, f"{block.page}: no line begins with a $"
    assert not first
    for command in commands:
        line, _, expected = command.partition("\n")
        done = subprocess.run(
            line, shell=True, text=True, capture_output=True, timeout=COMMAND_SECONDS
        )
        assert done.returncode == 0, done.stderr
        if expected.strip():
            assert_same(expected, done.stdout + done.stderr)


def data(read: Callable[[str], Any], block: Block) -> list[Callable[[], object]]:
    return [partial(read, block.text)]


RUNNERS: dict[str, Callable[[Block], list[Callable[[], object]]]] = {
    "python": python,
    "console": console,
    "json": partial(data, json.loads),
    "toml": partial(data, tomllib.loads),
    "yaml": partial(data, yaml.safe_load),
}


def assert_same(expected: str, printed: str) -> None:
    expected = expected.replace("\n...\n", "...\n")  # a line of dots also matches no line
    same = doctest.OutputChecker().check_output(
        expected, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert same, f"the page has\n{expected}\nit prints\n{printed}"


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_picture_of_the_terminal_shows_a_session_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    terminal = importlib.import_module("docs.hooks.terminal")
    now = terminal.draw(terminal.record())
    drawn = terminal.lines_of(terminal.PICTURE.read_text("utf-8"))

    # Kernels and times differ between machines.
    def shape(lines: list[str]) -> list[str]:
        fixed = [line for line in lines if not re.match("[a-z]+/", line)]
        return [re.sub(r"\s+", " ", re.sub(r"[\d.]+ (ms|s)\b", "TIME", line)) for line in fixed]

    assert shape(drawn) == shape(terminal.lines_of(now)), "run: python -m docs.hooks.terminal"
    assert "url(http" not in now


def test_blocks_are_found() -> None:
    fences = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        if re.match(r"\s*(```|~~~)", line)
    ]
    outputs = sum(block.output is not None for block in BLOCKS.values())

    assert len(fences) == 2 * (len(BLOCKS) + outputs), "a fence is indented, or has no language"


def test_few_blocks_are_not_run() -> None:
    not_run = [place for place, block in BLOCKS.items() if block.reason]

    assert len(not_run) <= len(BLOCKS) / 6, not_run
