"""The built-in providers: installed kernelspecs, and the ipykernel of this interpreter."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from kernelproto.exceptions import InvalidKernelSpec
from kernelproto.interfaces import KernelAttributes, KernelManager
from kernelproto.launch.process.interpreter import ipykernel_command
from kernelproto.launch.spec.kernelspec import (
    KernelSpec,
    find_kernelspecs,
    find_resources,
    read_kernelspec,
    read_kernelspecs,
)
from kernelproto.launch.spec.naming import OWN_PYTHON, means_own_python, no_such_kernel
from kernelproto.launch.spec.own_python import can_fork, forks_kernelspecs, own_arguments
from kernelproto.launch.spec.plan import Host, LaunchPlan, plan_launch
from kernelproto.wire.connection import ConnectionInfo


class KernelSpecProvider:
    """Finds installed kernelspecs, ``spec/NAME``."""

    id = "spec"

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernelspecs by name; log and skip invalid ones."""
        for kernelspec in read_kernelspecs():
            yield kernelspec.name, kernelspec.attributes()

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start the kernel of a kernelspec; the kernel need not be ready on return.

        Args:
            name: the name of the kernelspec, in any case.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: ``env`` (a mapping), ``extra_arguments`` (a list), ``transport``,
                ``encryption`` and ``ip`` (see LaunchParameters), the names in braces in the
                kernelspec's argv and env, and the parameters that the JSON Schema declares.

        Raises:
            NoSuchKernel: the kernelspec does not exist.
            InvalidKernelSpec: the kernelspec cannot be used.
            InvalidLaunchParameter: a parameter is missing, not allowed or unknown.
            LaunchError: the kernel cannot be started.
        """
        return await _launch(self.plan(name, cwd=cwd, launch_params=launch_params))

    def plan(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        """Return the plan that launch() performs; arguments and exceptions as there."""
        folders = find_kernelspecs()
        folder = folders.get(name.lower())
        if folder is None:
            raise no_such_kernel(
                name, folders, remedy="install its kernelspec, or add its folder to JUPYTER_PATH"
            )
        kernelspec = read_kernelspec(name.lower(), folder)
        return plan_launch(self.id, kernelspec, _this_host(), cwd=cwd, launch_params=launch_params)


class IPykernelProvider:
    """Finds the ipykernel of the running interpreter, ``pyimport/kernel``, without a kernelspec."""

    id = "pyimport"

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the type ``kernel`` if ipykernel can be imported."""
        kernelspec = _ipykernel()
        if kernelspec is not None:
            yield kernelspec.name, kernelspec.attributes()

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start an ipykernel in this interpreter's environment.

        Args:
            name: ``"kernel"``.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: ``env`` (a mapping), ``extra_arguments`` (a list), ``transport``,
                ``encryption`` and ``ip`` (see LaunchParameters).

        Raises:
            NoSuchKernel: ipykernel is not installed, or the name is another one.
            LaunchError: the kernel cannot be started.
        """
        return await _launch(self.plan(name, cwd=cwd, launch_params=launch_params))

    def plan(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        """Return the plan that launch() performs; arguments and exceptions as there."""
        kernelspec = _ipykernel_named(name)
        return plan_launch(self.id, kernelspec, _this_host(), cwd=cwd, launch_params=launch_params)


class ForkServerProvider:
    """Finds ``fork/kernel``: the ipykernel of the running interpreter, forked from a loaded one.

    ``fork/python3`` and ``fork/python`` are the kernelspecs of these names, if they describe the
    ipykernel of the running interpreter and a forked kernel does not differ from them. Name, logos,
    variables, arguments, interrupt mode and metadata are those of the kernelspec. A launch with an
    ``env`` that changes a variable that is read at the start cannot fork and starts a process.
    Neither kernel type exists on macOS, whose libraries are not safe after a fork, or if the
    environment variable KERNELPROTO_FORK_PYTHON3 is 0.

    A forked kernel is ready in a quarter of the time of ``pyimport/kernel``. The fork server is an
    interpreter that has loaded ipykernel and the modules of *preload*; all kernels share their
    memory. The server starts with the first kernel and ends with this program; detached kernels go
    on. If the server dies, the next launch starts another one.

    Settings that an interpreter reads at the start, such as PYTHONPATH and PYTHONHASHSEED, and
    variables that preloaded modules read, come from this program, not from ``env``.

    Args:
        preload: modules to load in advance, such as ``["numpy", "pandas"]``.
    """

    id = "fork"

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = tuple(preload)

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take ``{"preload": ["numpy", ...]}``.

        Raises:
            ValueError: *config* has another form.
        """
        preload = (config or {}).get("preload", self._preload)
        try:
            self._preload = msgspec.convert(preload, tuple[str, ...])
        except msgspec.ValidationError as error:
            raise ValueError(f"'preload' must be a list of module names: {error}") from error

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield ``kernel``, and ``python3`` if forking is possible; nothing without ipykernel."""
        kernelspec = _ipykernel() if hasattr(os, "fork") else None
        if kernelspec is not None:
            attributes = kernelspec.attributes()
            attributes["display_name"] = f"{kernelspec.display_name}, forked"
            yield kernelspec.name, attributes
        for name in OWN_PYTHON:
            kernelspec = _own_kernelspec(name)
            if kernelspec is not None:
                yield name, kernelspec.attributes()

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Fork an ipykernel.

        Args:
            name: ``"kernel"``, ``"python3"`` or ``"python"``.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: for ``kernel`` as for ``pyimport/kernel``; for the others as for their
                kernelspecs.

        Raises:
            NoSuchKernel: ipykernel is not installed, the name is another one, or this system
                cannot fork.
            InvalidLaunchParameter: a parameter is invalid, or a module cannot be preloaded.
            LaunchError: the kernel cannot be started.
        """
        return await _launch(self.plan(name, cwd=cwd, launch_params=launch_params))

    def plan(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        """Return the plan that launch() performs; arguments and exceptions as there.

        Modules that cannot be preloaded are found by launch() alone.
        """
        if means_own_python(name):
            kernelspec = _own_kernelspec(name.lower())
            if kernelspec is None:
                raise no_such_kernel(name, [], remedy="use the kernelspec, or pyimport/kernel")
            forks = can_fork(launch_params)
            return plan_launch(
                self.id,
                kernelspec,
                _this_host(),
                cwd=cwd,
                launch_params=launch_params,
                spawn="fork" if forks else "process",
                preload=self._preload if forks else (),
            )
        kernelspec = _ipykernel_named(name)
        if not hasattr(os, "fork"):
            raise no_such_kernel(name, [], remedy="use pyimport/kernel: this system cannot fork")
        return plan_launch(
            self.id,
            kernelspec,
            _this_host(),
            cwd=cwd,
            launch_params=launch_params,
            spawn="fork",
            preload=self._preload,
        )


def _ipykernel_named(name: str) -> KernelSpec:
    """Describe the ipykernel of this interpreter.

    Raises:
        NoSuchKernel: ipykernel is not installed, or the name is another one.
    """
    kernelspec = _ipykernel()
    if kernelspec is None:
        raise no_such_kernel(name, [], remedy="pip install ipykernel")
    if name != kernelspec.name:
        raise no_such_kernel(name, [kernelspec.name], remedy="ask for that one")
    return kernelspec


def _ipykernel() -> KernelSpec | None:
    """Describe the ipykernel of this interpreter; None if there is none."""
    folder = _ipykernel_folder()
    if folder is None:
        return None
    resources = os.path.join(folder, "resources")
    return KernelSpec(
        name="kernel",
        resource_dir=resources,
        resources=find_resources(resources),
        argv=tuple(ipykernel_command(sys.executable, ["-f", "{connection_file}"])),
        display_name=f"Python {sys.version_info.major} (ipykernel)",
        language="python",
        metadata={"debugger": True, **_ipykernel_encryption(folder)},
    )


def _ipykernel_folder() -> str | None:
    """Return the folder of the installed package ipykernel; None if there is none."""
    module = importlib.util.find_spec("ipykernel")
    return None if module is None or module.origin is None else os.path.dirname(module.origin)


def _own_kernelspec(name: str) -> KernelSpec | None:
    """Return a kernelspec of this interpreter's ipykernel, with the program that a fork runs.

    Return None if there is none, for another kernel, or if forking is not possible.
    """
    if (
        not forks_kernelspecs()
        or _ipykernel_folder() is None
        or (folder := find_kernelspecs().get(name)) is None
    ):
        return None
    try:
        kernelspec = read_kernelspec(name, folder)
    except InvalidKernelSpec:
        return None  # KernelSpecProvider reports this
    arguments = own_arguments(kernelspec, sys.executable)
    if arguments is None:
        return None
    argv = tuple(ipykernel_command(sys.executable, arguments))
    return msgspec.structs.replace(kernelspec, argv=argv)


def _ipykernel_encryption(folder: str) -> dict[str, Any]:
    """Return the metadata about encryption that this ipykernel writes into its kernelspec.

    That kernelspec may be missing or changed, so the version of ipykernel decides.
    """
    try:
        changed = os.stat(folder).st_mtime_ns  # by an installation
    except OSError:  # in a zip file
        changed = 0
    return {"supported_encryption": ["curve"]} if _has_curve(folder, changed) else {}


@lru_cache(maxsize=1)
def _has_curve(folder: str, changed: int) -> bool:
    """Return whether the installed ipykernel can encrypt; the arguments say for how long."""
    from importlib import metadata  # here, because the import loads a parser for e-mails

    try:
        version = metadata.version("ipykernel").split(".")
        return tuple(map(int, version[:2])) >= (7, 3)
    except (metadata.PackageNotFoundError, ValueError):
        return False


# The launcher is imported when needed: programs that only list kernel types start faster.


def _this_host() -> Host:
    from kernelproto.launch.launcher import this_host

    return this_host()


async def _launch(plan: LaunchPlan) -> tuple[ConnectionInfo, KernelManager]:
    from kernelproto.launch.launcher import launch

    return await launch(plan)
