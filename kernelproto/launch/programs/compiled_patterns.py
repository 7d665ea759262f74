"""Keep the patterns that the imports of a kernel compile, as Python keeps compiled modules.

The modules that an ipykernel imports compile a hundred regular expressions. Python does so in
Python code, which takes a tenth of the CPU time of all imports. Here the results are kept in a file
in ``__pycache__``, by the text and the flags of each pattern: a module that is changed finds none
for its new patterns. Those are compiled and added to the file.

ipykernel.py loads this file, which imports nothing of kernelproto.
"""

from __future__ import annotations

import importlib
import importlib.util
import marshal
import os
import re
import sys
from array import array
from contextlib import suppress
from typing import Any

# With "0" in this variable of the kernel's environment, all patterns are compiled.
VARIABLE = "KERNELPROTO_COMPILED_PATTERNS"

# Above this number, the file keeps only the patterns of the last start.
MOST = 1000

# The parts of a pattern: flags, code, number of groups, index by name of groups, names of groups.
Parts = tuple[int, bytes, int, dict[str, int], tuple["str | None", ...]]
Key = tuple["str | bytes", int]


class CompiledPatterns:
    """In a ``with`` block, ``re`` uses the patterns in a file, and the file gets the new ones.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        name = "re._compiler" if sys.version_info >= (3, 11) else "sre_compile"
        self._compiler: Any = importlib.import_module(name)
        self._engine = self._compiler._sre
        self._stock = self._compiler.compile
        self._path = path
        self._version = sys.version, self._engine.MAGIC, self._engine.CODESIZE
        self._known = self._read()
        self._used: dict[Key, Parts] = {}
        self._new: dict[Key, Parts] = {}

    def __enter__(self) -> None:
        self._compiler.compile = self._compile

    def __exit__(self, *_: object) -> None:
        self._compiler.compile = self._stock
        if self._new and not sys.dont_write_bytecode:
            self._write()

    def _compile(self, p: Any, flags: Any = 0) -> Any:
        if type(p) not in (str, bytes) or type(flags) is not int or flags & (re.DEBUG | re.LOCALE):
            return self._stock(p, flags)
        key = p, flags
        parts = self._known.get(key)
        if parts is not None:
            with suppress(Exception):  # the file is damaged
                pattern = self._engine.compile(p, parts[0], _numbers(parts[1]), *parts[2:])
                self._used[key] = parts
                return pattern
        recorder = _Recorder(self._engine)
        self._compiler._sre = recorder
        try:
            pattern = self._stock(p, flags)
        finally:
            self._compiler._sre = self._engine
        if len(recorder.calls) == 1:  # a module may compile patterns while another one is compiled
            self._new[key] = recorder.calls[0]
        return pattern

    def _read(self) -> dict[Key, Parts]:
        with suppress(OSError, EOFError, TypeError, ValueError), open(self._path, "rb") as file:
            version, known = marshal.loads(file.read())
            if version == self._version:
                return dict(known)
        return {}

    def _write(self) -> None:
        kept = {**self._known, **self._new}
        if len(kept) > MOST:
            kept = {**self._used, **self._new}
        draft = f"{self._path}.{os.getpid()}"
        try:
            with open(draft, "wb") as file:
                file.write(marshal.dumps((self._version, kept)))
            os.replace(draft, self._path)
        except OSError:  # for example a full disk
            with suppress(OSError):
                os.unlink(draft)


class _Recorder:
    """Stands for the module ``_sre``, and records the calls that make a pattern."""

    def __init__(self, engine: Any) -> None:
        self.calls: list[Parts] = []
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def compile(
        self, pattern: Any, flags: Any, code: Any, groups: int, names: Any, indexes: Any
    ) -> Any:
        made = self._engine.compile(pattern, flags, code, groups, names, indexes)
        numbers = array("I", map(int, code)).tobytes()
        self.calls.append((int(flags), numbers, groups, dict(names), tuple(indexes)))
        return made


def _numbers(code: bytes) -> list[int]:
    return array("I", code).tolist()


def compiled_patterns() -> CompiledPatterns | None:
    """Return the compiled patterns of the imports of a kernel; None if there can be none."""
    if os.environ.get(VARIABLE) == "0":
        return None
    # Python without a place for compiled modules, or with another engine for patterns
    with suppress(AttributeError, ImportError, NotImplementedError):
        return CompiledPatterns(
            importlib.util.cache_from_source(__file__).removesuffix(".pyc") + ".patterns"
        )
    return None
