"""The code of ``kernelproto run``: the source, and the arguments that Python code sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelproto.cli.errors import CliError

STDIN = "-"

# Suffixes of files that are certainly not Python code.
_OTHER_LANGUAGES = {
    ".bash": "bash",
    ".cs": "C#",
    ".fsx": "F#",
    ".jl": "Julia",
    ".js": "JavaScript",
    ".lua": "Lua",
    ".r": "R",
    ".rb": "Ruby",
    ".scala": "Scala",
    ".sh": "shell",
    ".sql": "SQL",
    ".ts": "TypeScript",
}

# Executed before the code. Only the names of a program stay in the namespace: without `exit` and
# `quit`, the code would go on after IPython's own functions of these names.
_SETUP = """\
def setup(argv, file, folder, main):
    import sys, warnings
    sys.argv = argv
    main["exit"] = main["quit"] = sys.exit
    warnings.filterwarnings("ignore", "To exit: use", UserWarning)
    if file is not None:
        main["__file__"] = file
        sys.path[:sys.path[:1] == [""]] = [folder]
setup({arguments}, globals())
del setup
"""


@dataclass(frozen=True, kw_only=True)
class Script:
    """Code to run once.

    Args:
        code: the code, in the kernel's language.
        argv: the file, "-c" or "-", then the arguments.
        file: the absolute path of the file; None if the code is not from a file.
    """

    code: str
    argv: Sequence[str]
    file: str | None = None

    @property
    def from_stdin(self) -> bool:
        """Whether the code came from standard input."""
        return self.argv[0] == STDIN

    @property
    def setup(self) -> str:
        """Python code that sets ``sys.argv``, ``__file__`` and ``sys.path`` as Python does."""
        folder = None if self.file is None else os.path.dirname(os.path.realpath(self.file))
        arguments = ", ".join(map(ascii, (list(self.argv), self.file, folder)))
        return _SETUP.replace("{arguments}", arguments)


def read_script(file: str | None, arguments: Sequence[str], code: str | None) -> Script:
    """Return the code that the command line names.

    Args:
        file: the path of a file, or "-" for standard input; with *code*, the first argument.
        arguments: the arguments after the file.
        code: the code.

    Raises:
        CliError: there is no code, or the file is a notebook or not UTF-8.
        OSError: the file cannot be read.
    """
    if code is not None:
        words = [] if file is None else [file, *arguments]
        return Script(code=code, argv=["-c", *words])
    if file is None:
        raise CliError("give the code as FILE, as - for standard input, or as -c CODE")
    if file.endswith(".ipynb"):
        raise CliError(f"{file} is a notebook; use `kernelproto notebook {file}`")
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CliError(f"{file} is not UTF-8 text: invalid byte {error.start}") from None
    path = None if file == STDIN else os.path.abspath(file)
    return Script(code=text, argv=[file, *arguments], file=path)


def other_language(file: str | None) -> str | None:
    """Return the language of a file by its suffix; None for Python and for unknown suffixes."""
    return None if file is None else _OTHER_LANGUAGES.get(Path(file).suffix.lower())
