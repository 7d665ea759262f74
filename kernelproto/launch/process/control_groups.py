"""Control groups: limits for all processes of a sandbox together. Linux only.

A sandbox with a limit gets a group in each necessary hierarchy: one per controller with version 1,
one for all controllers with version 2. The new groups are children of this program's group, so the
limits of this program hold as well. With version 2, a group with processes cannot have children
with limits; there the new groups are siblings of this program's group, if their parent has been
delegated to this program.

The names of the groups follow from the kernel's id, and the kernel's record names them, so that the
groups of a program that was killed can be removed.

Specification: "Control Group v2" and "Control Groups version 1" in the documentation of Linux.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.interfaces import DeathReason
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.programs.watchdog import CONTROL_GROUP, remove_files

# The period in which a share of CPU time is granted, in microseconds.
_PERIOD = 100_000

_SWAP = {"memory.memsw.limit_in_bytes", "memory.swap.max"}

# A shell that runs the kernel as a child ends with 128 and the number of the signal.
_KILLED = (-9, 128 + 9)

_DELEGATED = ("user.delegate", "trusted.delegate")

_MOUNT = re.compile(
    r"\d+ \d+ \d+:\d+ (?P<root>\S+) (?P<path>\S+) \S+ .*?- (?P<type>cgroup2?) \S+ (?P<options>\S+)"
)


class Hierarchy(NamedTuple):
    """A mounted hierarchy of control groups.

    Attributes:
        controllers: the controllers of version 1; empty with version 2.
        root: the group that is mounted.
        path: the folder of the mount.
    """

    controllers: frozenset[str]
    root: str
    path: str


class ControlGroups:
    """The control groups of one sandbox.

    Args:
        kernel_id: the id of the kernel.
        sandbox: the sandbox; *memory* and *cpu* count.

    Attributes:
        paths: the folders of the groups; none if the sandbox has no such limit.

    Raises:
        InvalidLaunchParameter: this program may not limit processes by control groups.
    """

    def __init__(self, kernel_id: str, sandbox: Sandbox) -> None:
        self._memory = sandbox.memory
        self._files: dict[str, dict[str, str]] = {}
        self._out_of_memory = False
        for controller, amount in (("memory", sandbox.memory), ("cpu", sandbox.cpu)):
            if amount is None:
                continue
            try:
                parent, version = parent_of_groups(controller)
            except (LookupError, OSError) as error:
                raise InvalidLaunchParameter(
                    f"launch parameter 'sandbox': {controller} cannot be limited here: {error}"
                ) from error
            files = _memory(version, amount) if controller == "memory" else _cpu(version, amount)
            path = os.path.join(parent, CONTROL_GROUP + kernel_id)
            self._files.setdefault(path, {}).update(files)
        self.paths = tuple(self._files)

    def make(self) -> None:
        """Make the groups, without processes.

        Raises:
            InvalidLaunchParameter: the system refuses a group or a limit.
        """
        made: list[str] = []
        try:
            for path, files in self._files.items():
                os.mkdir(path, mode=0o700)
                made.append(path)
                for name, text in files.items():
                    # Without swap space, a machine has no limits for swap.
                    if name not in _SWAP or os.path.exists(os.path.join(path, name)):
                        _write(os.path.join(path, name), text)
        except OSError as error:
            remove_files(map(os.fsencode, made))
            raise InvalidLaunchParameter(
                f"launch parameter 'sandbox': the control group {error.filename!r} cannot be made: "
                f"{error.strerror}"
            ) from error

    def reason(self, end: Exit) -> DeathReason | None:
        """Return why the groups have ended the kernel; None if they have not."""
        if end.returncode not in _KILLED or not self._was_out_of_memory():
            return None
        return DeathReason(
            f"the processes in its sandbox had used up their {self._memory} bytes of memory",
            "memory_limit",
        )

    def remove(self) -> None:
        """Remove the groups of killed processes. Blocks until the processes have ended."""
        self._out_of_memory = self._was_out_of_memory()
        remove_files(map(os.fsencode, self.paths))

    def _was_out_of_memory(self) -> bool:
        for path in () if self._memory is None else self.paths:
            for name in ("memory.oom_control", "memory.events"):
                with suppress(FileNotFoundError), open(os.path.join(path, name)) as file:
                    kills = re.search(r"^oom_kill (\d+)$", file.read(), re.MULTILINE)
                    return kills is not None and kills[1] != "0"
        return self._out_of_memory


def groups_fault(sandbox: Sandbox) -> str | None:
    """Return why the limits of a sandbox cannot be enforced here; None if they can be."""
    groups: ControlGroups | None = None
    try:
        groups = ControlGroups(f"trial-{os.getpid()}", sandbox)
        groups.make()
    except InvalidLaunchParameter as error:
        return str(error).removeprefix("launch parameter 'sandbox': ")
    finally:
        if groups is not None:
            groups.remove()
    return None


def parent_of_groups(controller: str, proc: str = "/proc/self") -> tuple[str, int]:
    """Return the folder for new groups with a controller, and the version of the hierarchy.

    Args:
        controller: the controller.
        proc: the folder in /proc of this process.

    Raises:
        LookupError: there is no such folder, or the folder is not delegated to this program.
        OSError: the system refuses.
    """
    mounted = _hierarchies(proc)
    own = list(_own_groups(proc))
    for hierarchy in mounted:
        for controllers, group in own:
            if controller in controllers & hierarchy.controllers:
                return _folder(hierarchy, group), 1
    for hierarchy in mounted:
        for controllers, group in own:
            if not controllers and not hierarchy.controllers:
                return _delegated(_folder(hierarchy, group), hierarchy.path, controller), 2
    raise LookupError("this machine has no such control groups")


def _delegated(own: str, top: str, controller: str) -> str:
    """Return the parent of new groups of version 2, in which a controller is on."""
    if controller not in _words(os.path.join(own, "cgroup.controllers")):
        raise LookupError(f"the control group {own} has no such controller")
    candidates = [own]
    if own != top and any(_has_attribute(os.path.dirname(own), name) for name in _DELEGATED):
        candidates.append(os.path.dirname(own))
    for folder in candidates:
        switch = os.path.join(folder, "cgroup.subtree_control")
        with suppress(OSError):
            if controller not in _words(switch):
                _write(switch, f"+{controller}")
            return folder
    raise LookupError(
        f"{own} has not been delegated to this program: run the program in a subgroup of a "
        "delegated group, with Delegate=yes and DelegateSubgroup=main of systemd"
    )


def _memory(version: int, amount: float) -> dict[str, str]:
    if version == 1:
        size = str(amount)
        return {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
    return {"memory.max": str(amount), "memory.swap.max": "0"}


def _cpu(version: int, amount: float) -> dict[str, str]:
    quota = str(round(amount * _PERIOD))
    if version == 1:
        return {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": quota}
    return {"cpu.max": f"{quota} {_PERIOD}"}


def _hierarchies(proc: str) -> list[Hierarchy]:
    with open(os.path.join(proc, "mountinfo")) as file:
        lines = [_MOUNT.match(line) for line in file]
    return [
        Hierarchy(
            frozenset[str]()
            if found["type"] == "cgroup2"
            else frozenset(found["options"].split(",")) - {"rw", "ro"},
            found["root"],
            found["path"],
        )
        for found in lines
        if found is not None
    ]


def _own_groups(proc: str) -> Iterator[tuple[frozenset[str], str]]:
    with open(os.path.join(proc, "cgroup")) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            yield frozenset(filter(None, controllers.split(","))), path


def _folder(hierarchy: Hierarchy, group: str) -> str:
    if os.path.commonpath([hierarchy.root, group]) != hierarchy.root:
        raise LookupError(f"the control group {group} is not mounted")
    return os.path.normpath(os.path.join(hierarchy.path, os.path.relpath(group, hierarchy.root)))


def _has_attribute(folder: str, name: str) -> bool:
    with suppress(OSError):
        return os.getxattr(folder, name) == b"1"
    return False


def _words(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            file.write(text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
