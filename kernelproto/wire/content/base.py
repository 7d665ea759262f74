"""The base classes of all contents."""

from __future__ import annotations

import msgspec


class Content(msgspec.Struct, frozen=True):
    """The content of a message."""


class Request(Content, frozen=True, kw_only=True):
    """A request without fields of its own."""


class Reply(Content, frozen=True, kw_only=True):
    """The common fields of replies: ``status`` "ok", "error" or "aborted", and the error."""

    status: str = "ok"
    ename: str = ""
    evalue: str = ""
    traceback: list[str] = []

    @property
    def aborted(self) -> bool:
        """Whether the kernel did not run the request; some kernels spell the status "abort"."""
        return self.status in ("aborted", "abort")
