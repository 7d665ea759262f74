"""Values for the tests of all registries."""

from __future__ import annotations

from kernelproto.interfaces import KernelHandle
from kernelproto.registry import RegisteredSession, Registry

GUARD_SECONDS = 60
LONG = 1000.0
LAPSED = 0.0  # a claim of no seconds has lapsed at once

HANDLE = KernelHandle(host="local", kernel_type="spec/a", kernel_id="one", place={"pid": 7})


async def add(registry: Registry, kernel_id: str = "one", **changes: object) -> int | None:
    values = {
        "owner": "ada",
        "name": kernel_id,
        "kernel_type": "spec/a",
        "node": "here",
        "seconds": LONG,
    }
    return await registry.add(kernel_id, **values | changes)


def session(session_id: str = "s", kernel_id: str = "one", **changes: str) -> RegisteredSession:
    values = {"owner": "ada", "path": "a.ipynb", "name": "a", "type": "notebook"} | changes
    return RegisteredSession(session_id=session_id, kernel_id=kernel_id, **values)
