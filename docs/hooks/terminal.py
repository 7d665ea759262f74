"""Record the terminal session of the landing page: ``python -m docs.hooks.terminal``.

The script runs the commands in a terminal of its own and draws the session as SVG. Run it on an
idle machine, because the picture shows a time. tests/test_docs_blocks.py runs the commands again
and fails if the picture has other commands, or if the shape of their output differs.
"""

from __future__ import annotations

import fcntl
import html
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "assets" / "terminal.svg"

COLUMNS, ROWS = 78, 40

COMMANDS = (
    "cat hello.py",
    "python hello.py",
    "kernelproto list",
    "kernelproto notebook report.ipynb -o out.ipynb -p year=2026",
)

_HELLO = """\
from kernelproto import run_kernel_blocking

with run_kernel_blocking("fork/kernel") as kernel:
    for output in kernel.execute("for n in 3, 2, 1: print(n)").outputs:
        print(output.text, end="")
"""

_NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {
            "id": "result",
            "cell_type": "code",
            "metadata": {},
            "source": "print('the report of', year)",
            "execution_count": None,
            "outputs": [],
        }
    ],
}


def record() -> list[tuple[str, str]]:
    """Run the commands; return each with its output, which has the escape sequences of colours."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hello.py").write_text(_HELLO, "utf-8")
        Path(folder, "report.ipynb").write_text(json.dumps(_NOTEBOOK), "utf-8")
        return [(command, _run(command, folder)) for command in COMMANDS]


def _run(command: str, folder: str) -> str:
    """Run a command whose standard output is a terminal; return its output.

    Raises:
        CalledProcessError: the command failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    programs = os.path.dirname(sys.executable)
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "JUPYTER_PATH", "LINES", "NO_COLOR")
    }
    env |= {"PATH": f"{programs}{os.pathsep}{env['PATH']}", "TERM": "xterm-256color"}
    with (
        open(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,  # progress bars need a terminal that can move its cursor
        ) as process,
    ):
        os.close(theirs)
        output = bytearray()
        try:
            while block := terminal.read(65536):
                output += block
        except OSError:  # on Linux, the end of a terminal is an error
            pass
        assert process.stderr is not None
        errors = process.stderr.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, bytes(output), errors)
    return output.decode().replace("\r\n", "\n")


def draw(session: list[tuple[str, str]]) -> str:
    """Return a session as SVG that fetches no fonts."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for number, (command, output) in enumerate(session):
        console.print(Text.assemble("\n" if number else "", ("$ ", "green"), (command, "bold")))
        console.print(Text.from_ansi(output.rstrip("\n")))
    picture = console.export_svg(title="kernelproto", theme=DIMMED_MONOKAI, unique_id="terminal")
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    picture = picture.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    return "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"


def lines_of(picture: str) -> list[str]:
    """Return the lines of text in a picture, from top to bottom."""
    lines: dict[float, str] = {}
    for y, text in re.findall(r'<text class="terminal-r.*? y="([^"]*)".*?>(.*?)</text>', picture):
        lines[float(y)] = lines.get(float(y), "") + html.unescape(text).replace("\xa0", " ")
    return [lines[y].rstrip() for y in sorted(lines)]


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(record()), "utf-8")


if __name__ == "__main__":
    main()
