"""Describe the machine and the versions, without names or paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import zmq

_PACKAGES = (
    "kernelproto",
    "anyio",
    "msgspec",
    "pyzmq",
    "trio",
    "uvloop",
    "jupyter_client",
    "orjson",
    "tornado",
    "ipykernel",
    "xeus-python",
    "fps-kernel-subprocess",
    "zmq-anyio",
)


def facts() -> Mapping[str, object]:
    """Return the facts that a reader needs to compare results."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libzmq": zmq.zmq_version(),
        "load": round(os.getloadavg()[0], 1),
        **{package: _version(package) for package in _PACKAGES},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
