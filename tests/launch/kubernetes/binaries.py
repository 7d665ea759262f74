"""The folders of other people's programs that the tests with Kubernetes need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


class NoKubernetes(Exception):
    """The tests with Kubernetes cannot run here; the text says why."""


def cache() -> Path:
    """Return the folder of the programs and schemas; it is outside of the working tree."""
    base = os.environ.get("KERNELPROTO_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache", "kernelproto", "kubernetes", VERSION)


def find_programs() -> dict[str, str]:
    """Return the path of each program.

    Raises:
        NoKubernetes: one is missing.
    """
    paths = {name: str(cache() / name) for name in PROGRAMS if (cache() / name).exists()}
    if etcd := shutil.which("etcd"):
        paths["etcd"] = etcd
    missing = [name for name in ("etcd", *PROGRAMS) if name not in paths]
    if missing:
        raise NoKubernetes(f"{', '.join(missing)} is missing: run `make kubernetes`")
    return paths
