"""Files at URLs; tests/cli/test_locations.py uses a server at a loopback address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from kernelproto.exceptions import NotebookError
from kernelproto.urls import check_url, display_url, is_url, read_url, write_url


@pytest.fixture
def memory() -> Iterator[Any]:
    """Give an empty file system."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


@pytest.mark.parametrize("path", ["s3://bucket/a", "https://h/a?b#c", "memory://a", "s3a://b"])
def test_url(path: str) -> None:
    assert is_url(path)


@pytest.mark.parametrize("path", ["a.ipynb", "/a://b", "://b", "a b://c", "C:\\a", "s3:/a", None])
def test_path(path: str | None) -> None:
    assert not is_url(path)


def test_secrets_are_not_displayed() -> None:
    url = "https://ada:secret@host:1/a/b.ipynb?signature=secret#secret"
    assert display_url(url) == "https://host:1/a/b.ipynb"
    assert display_url("s3://bucket/a@b.ipynb") == "s3://bucket/a@b.ipynb"
    assert display_url("https://host?signature=secret") == "https://host"
    assert display_url("GET 'https://ada:secret@h/a?secret' failed") == "GET 'https://h/a' failed"


def test_read_and_write(memory) -> None:
    write_url("memory://folder/a", b"one")
    write_url("memory://folder/a", b"two")

    assert read_url("memory://folder/a") == b"two"
    with pytest.raises(FileNotFoundError, match="memory://folder/b: No such file"):
        read_url("memory://folder/b")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nothing://a", "nothing://a: Protocol not known: nothing"),
        ("file:///a", "file:///a: pass the path without file://"),
    ],
)
def test_unusable_protocol(url: str, reason: str) -> None:
    with pytest.raises(NotebookError, match=reason):
        check_url(url)


def test_without_the_extra(monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.extras.find_spec", lambda name: None)

    with pytest.raises(NotebookError) as raised:
        check_url("s3://ada:secret@bucket/a")
    assert str(raised.value) == (
        's3://bucket/a: aiohttp, fsspec cannot be imported: pip install "kernelproto[remote]"'
    )


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket/a", "s3fs", "s3"),
        ("gs://bucket/a", "gcsfs", "gcs"),
        ("az://bucket/a", "adlfs", "abfs"),
    ],
)
def test_without_the_client(monkeypatch, url: str, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # its import fails

    with pytest.raises(NotebookError) as raised:
        check_url(url)
    assert str(raised.value).endswith(f'is not installed: pip install "fsspec[{extra}]"')
