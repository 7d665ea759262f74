"""``kernelproto doctor``: checks the installation, the system and each kernel type."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from importlib import metadata
from typing import NamedTuple

import anyio
import anyio.to_thread
from jupyter_core.paths import jupyter_path

from kernelproto.cli.errors import FAILED, describe
from kernelproto.cli.inventory import find_running_kernels, with_states
from kernelproto.cli.list import find_kernel_types
from kernelproto.cli.screen import BOLD, DIM, GREEN, RED, styled
from kernelproto.cli.table import printable
from kernelproto.exceptions import KernelProtoError
from kernelproto.extras import DISTRIBUTIONS, EXTRAS, advice
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.hooks import find_hooks
from kernelproto.launch.leftovers.records import records_fault
from kernelproto.run import run_kernel
from kernelproto.timeouts import Timeouts

_DEPENDENCIES = ("anyio", "msgspec", "pyzmq")

# A program needs about a dozen descriptors for each of its kernels.
_ENOUGH_DESCRIPTORS = 1024

_SUBJECT_WIDTH = 18
_MARKS = {True: ("ok", GREEN), False: ("!!", RED), None: ("--", DIM)}


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        good: True for "ok", False for a problem, None for information.
        subject: the subject of the check.
        text: the result.
    """

    good: bool | None
    subject: str
    text: str


def examine(*, start: bool, timeout: float) -> int:
    """Run all checks and print each result; return the exit status, 1 if a check fails.

    Args:
        start: whether to start a kernel of each type.
        timeout: seconds that each kernel may take to become ready.
    """
    return anyio.run(_examine, start, timeout)


async def _examine(start: bool, startup: float) -> int:
    problems = 0
    for title, findings in (
        ("Installed", _packages()),
        ("System", _system()),
        ("Kernel types", _kernel_types(start, startup)),
    ):
        print(styled(title, BOLD, sys.stdout))
        async for finding in findings:
            problems += finding.good is False
            print(_line(finding), flush=True)
    if problems:
        print(f"\n{problems} {'problem' if problems == 1 else 'problems'} found.")
        return FAILED
    print("\nNo problems found.")
    return 0


def _line(finding: Finding) -> str:
    mark = styled(*_MARKS[finding.good], sys.stdout)
    subject = printable(finding.subject).ljust(_SUBJECT_WIDTH)
    return f"  {mark}  {subject} {printable(finding.text)}"


async def _packages() -> AsyncIterator[Finding]:
    yield Finding(True, "Python", f"{platform.python_version()}, {platform.platform(terse=True)}")
    dependencies = ", ".join(f"{name} {_version(name)}" for name in _DEPENDENCIES)
    yield Finding(True, "kernelproto", f"{_version('kernelproto')}, with {dependencies}")
    for extra, names in EXTRAS.items():
        versions = [(name, _version(name)) for name in names]
        missing = [name for name, version in versions if version is None]
        if missing:
            text = f"{', '.join(missing)} not installed: {advice(extra)}"
            yield Finding(None, f"[{extra}]", text)
        else:
            found = ", ".join(f"{name} {version}" for name, version in versions)
            yield Finding(True, f"[{extra}]", found)
    if _version("ipykernel") is not None:
        for finding in await _hooks():
            yield finding


async def _hooks() -> list[Finding]:
    """Find out which hooks make pyimport/kernel and fork/kernel faster."""
    try:
        hooks = await find_hooks()
    except (OSError, TimeoutError) as error:
        return [Finding(False, "fast ipykernel", describe(error))]
    on = [name for name, reason in hooks.items() if reason is None]
    text = f"{len(on)} of {len(hooks)} hooks are on: {', '.join(on) or 'none'}"
    off = [
        Finding(None, f"hook {name}", f"off: {reason}")
        for name, reason in hooks.items()
        if reason is not None
    ]
    return [Finding(True if on else None, "fast ipykernel", text), *off]


def _version(package: str) -> str | None:
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return None


async def _system() -> AsyncIterator[Finding]:
    folder = runtime_folder()
    yield _runtime_folder(folder)
    for name in _missing_folders():
        # No problem: Jupyter ignores the entry, and the folder may exist on other machines.
        yield Finding(None, "JUPYTER_PATH", f"{name} does not exist; it is ignored")
    kernels = await with_states(find_running_kernels())
    dead = [kernel for kernel in kernels if kernel.state == "dead"]
    yield Finding(True, "running kernels", str(len(kernels) - len(dead)))
    if dead:
        command = f"kernelproto stop {dead[0].kernel_id[:8]}"
        yield Finding(None, "dead kernels", f"{len(dead)} left files behind; remove: {command} ...")
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = limit == resource.RLIM_INFINITY or limit >= _ENOUGH_DESCRIPTORS
        text = f"{limit} open files" + ("" if enough else " are too few: run `ulimit -n 4096`")
        yield Finding(enough, "limits", text)
    if sys.platform == "linux":  # no other system has sandboxes
        for finding in await anyio.to_thread.run_sync(_sandboxes):
            yield finding


def _sandboxes() -> list[Finding]:
    """Check whether sandboxes can be made here, and whether a server can isolate its users."""
    from kernelproto.launch.process.confinement import NOBODY, sandbox_fault, users_fault
    from kernelproto.launch.process.control_groups import groups_fault
    from kernelproto.launch.process.sandbox import Sandbox

    reason = sandbox_fault()
    if reason is not None:
        without = "there are no weaker sandboxes, such as with Landlock alone"
        return [Finding(None, "sandboxes", f"not possible here: {reason}; {without}")]
    user = os.geteuid() or NOBODY
    findings = [Finding(True, "sandboxes", f"possible; kernels run as user {user}")]
    for subject, good, reason in (
        ("memory of sandboxes", "can be limited", groups_fault(Sandbox(memory=2**30))),
        ("CPU of sandboxes", "can be limited", groups_fault(Sandbox(cpu=1))),
        ("isolated users", "possible for a server of root", users_fault()),
    ):
        text = good if reason is None else f"not possible here: {reason}"
        findings.append(Finding(True if reason is None else None, subject, text))
    text = (
        "kernelproto sets none for folders on the disk: set quotas of the file system, or give a "
        "size to folders in writable and to home folders (isolation.home_memory), which are then "
        "in memory"
    )
    findings.append(Finding(None, "disk quota", text))
    return findings


def _missing_folders() -> list[str]:
    named = os.environ.get("JUPYTER_PATH", "").split(os.pathsep)
    return [name for name in named if name and not os.path.isdir(name)]


def _runtime_folder(folder: str) -> Finding:
    subject = "runtime folder"
    try:
        os.stat(folder)
    except FileNotFoundError:
        return Finding(True, subject, f"{folder}: does not exist yet; created on demand")
    except OSError as error:
        return Finding(False, subject, describe(error))
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(False, subject, f"{folder}: not writable; set JUPYTER_RUNTIME_DIR")
    if (fault := records_fault(folder)) is not None:
        return Finding(False, subject, f"{fault}; the kernel records in it are ignored")
    return Finding(True, subject, folder)


async def _kernel_types(start: bool, startup: float) -> AsyncIterator[Finding]:
    with _warnings() as warnings:
        kernel_types = await find_kernel_types()
    for warning in warnings:
        yield Finding(False, "skipped", warning)
    if not kernel_types:
        folders = ", ".join(jupyter_path("kernels"))
        yield Finding(False, "none", f"pip install ipykernel, or put kernelspecs into {folders}")
    for name, about in kernel_types.items():
        if "unavailable" in about:
            yield Finding(None, name, f"cannot be launched here: {about['unavailable']}")
        elif start:
            yield await _start(name, startup)
        else:
            yield Finding(None, name, f"{about.get('display_name', '')}: not started")


async def _start(name: str, startup: float) -> Finding:
    began = time.perf_counter()
    try:
        async with run_kernel(name, timeouts=Timeouts(startup=startup)) as kernel:
            ready = time.perf_counter() - began
            info = kernel.info
    except KernelProtoError as error:
        return Finding(False, name, describe(error))
    implementation = f"{info.implementation} {info.implementation_version}" if info else "?"
    return Finding(True, name, f"{implementation}, ready after {ready * 1000:.0f} ms")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        reason = "" if error is None else f": {describe(error)}"
        self.messages.append(record.getMessage() + reason)


@contextmanager
def _warnings() -> Generator[list[str]]:
    """Collect kernelproto's log warnings during the block, instead of logging them."""
    logger, collector = logging.getLogger("kernelproto"), _Collector()
    logger.addHandler(collector)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield collector.messages
    finally:
        logger.propagate = propagated
        logger.removeHandler(collector)
