"""Reads and writes the files of URLs, through fsspec. Needs the extra ``remote``.

The functions block, and are called in threads. fsspec's own clients limit the time of a request.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from kernelproto.exceptions import NotebookError
from kernelproto.extras import fault

T = TypeVar("T")

# The user, password, query and fragment of a URL; also in the middle of a sentence.
_SECRETS = re.compile(r"(?<=://)[^/?#\s]*@|[?#][^\s'\"]*")

# By protocol: the extra of fsspec that installs the client.
_CLIENTS = {
    "abfs": "abfs",
    "abfss": "abfs",
    "az": "abfs",
    "gcs": "gcs",
    "gs": "gcs",
    "http": "http",
    "https": "http",
    "s3": "s3",
    "s3a": "s3",
}


def is_url(path: object) -> TypeGuard[str]:
    """Return whether a path is a URL, such as ``s3://bucket/report.ipynb``."""
    protocol, separator, _ = path.partition("://") if isinstance(path, str) else ("", "", "")
    return bool(separator) and protocol.isascii() and protocol.replace("+", "").isalnum()


def display_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, which may be secrets."""
    return _SECRETS.sub("", url)


def check_url(url: str) -> None:
    """Check that the client for a URL is installed; nothing is sent.

    Raises:
        NotebookError: the client is missing, or the protocol is unknown.
    """
    _client(url)


def read_url(url: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: the file cannot be read.
        NotebookError: see ``check_url``.
    """
    return _request(url, "read", lambda files, path: bytes(files.cat_file(path)))


def write_url(url: str, data: bytes | memoryview) -> None:
    """Write a file; over http with the method PUT.

    Raises:
        OSError: the file cannot be written.
        NotebookError: see ``check_url``.
    """
    _request(url, "written", lambda files, path: files.pipe_file(path, bytes(data)))


def _client(url: str) -> tuple[Any, str]:
    """Return fsspec's client of a URL, and the path of the file for this client."""
    protocol = url.partition("://")[0]
    if protocol in ("file", "local"):
        raise NotebookError(f"{display_url(url)}: pass the path without {protocol}://")
    if (text := fault("remote")) is not None:
        raise NotebookError(f"{display_url(url)}: {text}")
    fsspec: Any = importlib.import_module("fsspec")  # which has no types, and takes 0.1 s
    try:
        files, path = fsspec.url_to_fs(url)
    except ImportError as error:
        extra = _CLIENTS.get(protocol)
        advice = str(error) if extra is None else f'pip install "fsspec[{extra}]"'
        raise NotebookError(
            f"{display_url(url)}: the client for {protocol}:// is not installed: {advice}"
        ) from error
    except ValueError as error:
        raise NotebookError(f"{display_url(url)}: {error}") from error
    return files, path


def _request(url: str, done: str, request: Callable[[Any, str], T]) -> T:
    files, path = _client(url)
    try:
        return request(files, path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{display_url(url)}: No such file") from error
    except Exception as error:  # each client has its own types
        # Some errors repeat the URL.
        reason = display_url((str(error) or type(error).__name__).splitlines()[0])
        raise OSError(f"{display_url(url)} cannot be {done}: {reason}") from error
