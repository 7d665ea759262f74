"""Patterns from the file are those that Python compiles."""

from __future__ import annotations

import marshal
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelproto.launch.programs import compiled_patterns, ipykernel
from kernelproto.launch.programs.compiled_patterns import CompiledPatterns

PATTERNS: list[tuple[str | bytes, int]] = [
    (r"(?P<year>\d{4})-(?P<month>\d\d)|(none)", 0),
    (r"(?<=\.)[a-zä-ü]+(?![0-9]{2,3}?)", re.IGNORECASE),
    (r"(?x) a  # comment", 0),
    (r"^ [^\W\d_]+ $", re.VERBOSE | re.MULTILINE | re.ASCII),
    (rb"(GLIBC_([0-9.]+))|(libc(_\w+)?\.so)", re.ASCII),
    ("[\U0001f600-\U0001f64f]|" + "|".join(map(str, range(200))), re.DOTALL),
    ("", 0),
]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    re.purge()
    yield str(tmp_path / "file.patterns")
    re.purge()


@pytest.fixture(autouse=True)
def may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def compile_all(path: str) -> list[re.Pattern[str] | re.Pattern[bytes]]:
    re.purge()
    with CompiledPatterns(path):
        return [re.compile(text, flags) for text, flags in PATTERNS]


def stock() -> list[re.Pattern[str] | re.Pattern[bytes]]:
    re.purge()
    return [re.compile(text, flags) for text, flags in PATTERNS]


def test_patterns_are_equal(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compile_all(path) == stock()
    patterns = CompiledPatterns(path)
    re.purge()
    with patterns, monkeypatch.context() as patch:
        patch.setattr(patterns, "_stock", None)  # compiles nothing
        kept = [re.compile(text, flags) for text, flags in PATTERNS]
    assert kept == stock()
    for one, other in zip(kept, stock(), strict=True):
        assert (one.flags, one.groups, one.groupindex) == (
            other.flags,
            other.groups,
            other.groupindex,
        )
    found = kept[0].match("2026-11")  # type: ignore[arg-type]
    assert found is not None
    assert (found.lastgroup, found.groupdict()) == ("month", {"year": "2026", "month": "11"})


def test_new_patterns_are_added(path: str) -> None:
    compile_all(path)
    with CompiledPatterns(path):
        re.compile("another")
    version, known = marshal.loads(Path(path).read_bytes())
    assert len(known) == len(PATTERNS) + 1
    assert version[0] == sys.version


def test_file_keeps_the_patterns_of_the_last_start_if_there_are_too_many(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_all(path)
    monkeypatch.setattr(compiled_patterns, "MOST", len(PATTERNS))
    text, flags = PATTERNS[0]
    re.purge()
    with CompiledPatterns(path):
        re.compile(text, flags)
        re.compile("another")
    assert list(marshal.loads(Path(path).read_bytes())[1]) == [(text, flags), ("another", 0)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"damaged",
        marshal.dumps(1),
        marshal.dumps(("another version", {("a", 0): ()})),
        marshal.dumps(((sys.version, 0, 0), [])),
    ],
)
def test_file_that_cannot_be_used_is_replaced(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    assert compile_all(path) == stock()
    assert len(marshal.loads(Path(path).read_bytes())[1]) == len(PATTERNS)


def test_damaged_patterns_are_compiled(path: str) -> None:
    compile_all(path)
    version, known = marshal.loads(Path(path).read_bytes())
    damaged = {key: (parts[0], b"\xff\xff\xff\xff", *parts[2:]) for key, parts in known.items()}
    Path(path).write_bytes(marshal.dumps((version, damaged)))
    assert compile_all(path) == stock()


def test_wrong_patterns_and_flags_are_refused_as_always(path: str) -> None:
    with CompiledPatterns(path):
        with pytest.raises(re.error, match="unterminated"):
            re.compile("(", 0)
        with pytest.raises(TypeError, match="string or compiled pattern"):
            re.compile(1)  # type: ignore[call-overload]
        assert re.compile(re.compile("a")) == re.compile("a")
        re.compile(rb"\w", re.LOCALE)
    kept = marshal.loads(Path(path).read_bytes())[1]
    assert ("a", 0) in kept
    assert {("(", 0), (rb"\w", int(re.LOCALE))}.isdisjoint(kept)


def test_file_that_cannot_be_written(path: str) -> None:
    missing = os.path.join(path, "folder", "file")
    assert compile_all(missing) == stock()


def test_python_that_writes_no_compiled_modules_writes_no_patterns(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    compile_all(path)
    assert not os.path.exists(path)


def test_second_kernel_compiles_no_patterns_of_imports(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    written = []
    for _ in range(2):
        command = [sys.executable, ipykernel.__file__, ipykernel.REPORT]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        (file,) = tmp_path.rglob("*.patterns")
        written.append(file.stat().st_mtime_ns)
    assert written[0] == written[1]
    assert len(marshal.loads(file.read_bytes())[1]) > 50


def test_write_that_fails_leaves_no_file(path: str) -> None:
    os.mkdir(path)  # a file cannot replace a folder
    assert compile_all(path) == stock()
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
