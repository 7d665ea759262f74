"""Engine: podman or docker, by its command line.

Their HTTP API would save a process for each call, about 50 ms of CPU time, and would report the
ends of containers. But podman serves that API only where a user has started its service, rootless
podman has no other daemon, and the two APIs differ more than the command lines. Few calls are
needed: one starts a kernel, two end it. The end of a kernel is noticed without the engine, see
manager.py.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from kernelproto.exceptions import LaunchError
from kernelproto.launch.command import Completed, run_command
from kernelproto.launch.container.settings import ContainerKernel

Kind = Literal["podman", "docker"]

_KINDS: tuple[Kind, ...] = ("podman", "docker")

# The engine answers in 0.1 s; a busy machine may take longer.
_CALL_SECONDS = 60.0

_QUOTED_CHARACTERS = 600

# Known errors of the engines, in lower case, and the words for them. The first match counts.
_ERRORS = (
    (
        r"permission denied.*(daemon|docker\.sock|podman\.sock)",
        "this user may not use it: add the user to its group, or use rootless podman",
    ),
    (
        r"cannot connect to|is the docker daemon running|connection refused|no such host",
        "it does not run: start its service",
    ),
    (
        r"newuidmap|newgidmap|subuid|user namespace|rootless.*not permitted",
        "this user has no rights to run containers: add a range of users for it to /etc/subuid and "
        "/etc/subgid, see the rootless mode of the engine; with podman, or set user of the kernel "
        "type to '0:0', which is this user outside of the container",
    ),
    (
        r"unauthorized|authentication required|access denied|access to the resource is denied",
        "the registry refuses this user: log in to it, or correct the name of the image",
    ),
    (
        r"manifest unknown|name unknown|repository .*does not exist",
        "the registry does not have the image: correct its name",
    ),
    (
        r"image not known|no such image|unable to find image|does not resolve to an image",
        "the image is not on this machine: build or pull it, or set pull to 'missing'",
    ),
    (
        r"short-name .*did not resolve|pinging container registry|dial tcp|i/o timeout|no route",
        "the registry cannot be reached: give the full name of the image, and check the network",
    ),
    (
        r"executable file .*not found|no such file or directory.*exec|permission denied.*exec",
        "the command is not in the image, or cannot be run: correct the command",
    ),
    (r"statfs |no such file or directory", "a folder to be mounted does not exist"),
)


class EngineError(LaunchError):
    """The engine has refused a call.

    Attributes:
        stderr: the output of the engine.
    """

    def __init__(self, message: str, *, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


class Abilities(msgspec.Struct, frozen=True):
    """The abilities of an engine on this machine.

    Args:
        rootless: whether the engine runs without root.
        limits: the possible limits: ``"memory"``, ``"cpu"`` and ``"pids"``.
    """

    rootless: bool
    limits: frozenset[str]

    def check(self, kernel: ContainerKernel) -> None:
        """Check that the engine can set the limits of a kernel type.

        Raises:
            LaunchError: the engine cannot set them, and would ignore them.
        """
        wanted = {"memory": kernel.memory, "cpu": kernel.cpus, "pids": kernel.processes}
        names = {"memory": "memory", "cpu": "cpus", "pids": "processes"}
        missing = [names[one] for one in wanted if wanted[one] and one not in self.limits]
        if missing:
            raise LaunchError(
                f"the container engine cannot limit {' and '.join(missing)} here, because this "
                "system has not delegated the control groups: delegate them (rootless engines need "
                f"control groups of version 2), or set {' and '.join(missing)} of the kernel type "
                "to null"
            )


class Engine:
    """Calls podman or docker.

    Args:
        program: the program's name or path; "" means podman, or else docker.
        options: options that each call begins with.
    """

    def __init__(self, program: str, options: Sequence[str]) -> None:
        self._program = program
        self._options = tuple(options)
        self._abilities: Abilities | None = None

    def __repr__(self) -> str:
        return f"<Engine {self._program or ' or '.join(_KINDS)}>"

    @property
    def program(self) -> str | None:
        """The path of the program; None if not installed."""
        names = (self._program,) if self._program else _KINDS
        return next(filter(None, map(shutil.which, names)), None)

    @property
    def kind(self) -> Kind:
        """The engine whose options the program takes."""
        name = os.path.basename(self._program or self.program or "")
        return "docker" if name.startswith("docker") else "podman"

    def fault(self) -> str | None:
        """Return why the engine cannot be used, as far as known without a call."""
        if self.program is not None:
            return None
        name = self._program or "podman or docker"
        return f"the container engine {name} is not installed, or not on PATH: install it"

    async def call(
        self, *arguments: str, seconds: float = _CALL_SECONDS, cwd: str | None = None
    ) -> str:
        """Call the engine; return the standard output. Arguments and exceptions as in run()."""
        return (await self.run(*arguments, seconds=seconds, cwd=cwd)).stdout

    async def run(
        self, *arguments: str, seconds: float = _CALL_SECONDS, cwd: str | None = None
    ) -> Completed:
        """Call the engine; return both outputs.

        Args:
            arguments: the command line, without the program and the program's options.
            seconds: the time limit.
            cwd: the working directory of the engine.

        Raises:
            EngineError: the engine is missing, has not answered in time, or has refused the call.
        """
        program = self.program
        if program is None:
            raise EngineError(self.fault() or "")
        try:
            done = await run_command(
                [program, *self._options, *arguments], seconds=seconds, cwd=cwd
            )
        except TimeoutError:
            raise EngineError(
                f"the container engine has not answered after {seconds:g} s: {_shown(arguments)}"
            ) from None
        except OSError as error:
            raise EngineError(
                f"the container engine {program!r} cannot be run: {error.strerror}"
            ) from error
        if done.returncode != 0:
            raise self._refusal(arguments, done)
        return done

    async def abilities(self) -> Abilities:
        """Return the abilities of the engine here; the engine is asked once.

        Raises:
            EngineError: the engine cannot be used.
        """
        if self._abilities is None:
            text = await self.call("info", "--format", "{{json .}}")
            try:
                about = msgspec.json.decode(text, type=dict[str, Any])
                found = _of_docker(about) if self.kind == "docker" else _of_podman(about)
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise EngineError(
                    f"the container engine described itself wrongly: {error}"
                ) from error
            self._abilities = found
        return self._abilities

    async def inspect(self, *names: str) -> list[Mapping[str, Any]]:
        """Return the descriptions of containers that exist.

        Raises:
            EngineError: the engine cannot be used; a container that does not exist is no error.
        """
        found: list[Mapping[str, Any]] = []
        try:
            text = await self.call("container", "inspect", *names)
            found += msgspec.json.decode(text, type=list[dict[str, Any]])
        except EngineError as error:
            if not is_missing(error):
                raise
            if len(names) > 1:  # one of them has gone meanwhile
                for name in names:
                    found += await self.inspect(name)
        except ValueError as error:
            raise EngineError(
                f"the container engine described a container wrongly: {error}"
            ) from None
        return found

    def _refusal(self, arguments: Sequence[str], done: Completed) -> EngineError:
        stderr = done.stderr.strip()
        words = next(
            (words for pattern, words in _ERRORS if re.search(pattern, stderr.lower(), re.DOTALL)),
            None,
        )
        quoted = stderr[-_QUOTED_CHARACTERS:] or f"exit status {done.returncode}"
        return EngineError(
            f"the container engine has refused {_shown(arguments)}: "
            + (f"{words} ({quoted})" if words else quoted),
            stderr=stderr,
        )


def is_missing(error: EngineError) -> bool:
    """Return whether the engine has said that a container does not exist."""
    return re.search(r"no such (container|object)", error.stderr.lower()) is not None


def _of_podman(about: Mapping[str, Any]) -> Abilities:
    host = about["host"]
    return Abilities(
        rootless=bool(host["security"]["rootless"]),
        limits=frozenset(cast("list[str]", host.get("cgroupControllers") or [])),
    )


def _of_docker(about: Mapping[str, Any]) -> Abilities:
    if about.get("ServerErrors"):
        raise EngineError(
            f"the container engine cannot be used: {'; '.join(about['ServerErrors'])}"
        )
    options = cast("list[str]", about.get("SecurityOptions") or [])
    limits = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
    return Abilities(
        rootless=any("rootless" in option for option in options),
        limits=frozenset(name for name, key in limits.items() if about.get(key)),
    )


def _shown(arguments: Sequence[str]) -> str:
    """Return the subcommand: the arguments may have secrets."""
    return repr(" ".join(arguments[: 2 if arguments[0] == "container" else 1]))
