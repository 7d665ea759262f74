"""EnvironmentProvider: the ipykernels of Python environments, ``env/NAME``."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import msgspec

from kernelproto.exceptions import DiscoveryError
from kernelproto.interfaces import KernelAttributes, KernelManager
from kernelproto.launch.spec.configuration import configuration
from kernelproto.launch.spec.naming import ENVIRONMENTS
from kernelproto.launch.spec.plan import LaunchPlan, plan_launch
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from kernelproto.launch.environments.search import Source

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# A search takes milliseconds, unless a network folder does not answer.
_SEARCH_SECONDS = 10.0


class EnvironmentProvider:
    """Finds Python environments, and runs the ipykernel of each: ``env/NAME``.

    The search for environments of venv, virtualenv, uv, poetry, conda and pixi reads files and runs
    no program. An environment without ipykernel is found, too, but cannot be launched: the error
    has the command that installs ipykernel.

    The kernel runs with the variables that activating the environment sets. Scripts of conda
    packages (``etc/conda/activate.d``) need a shell and are not run.

    Args:
        project: a folder of the project to search; None means the present working directory. The
            folder stays the same, so that a kernel restarts in the same environment even after the
            program has changed its working directory.
        sources: the searches: ``"project"``, ``"active"`` (VIRTUAL_ENV, CONDA_PREFIX) and
            ``"conda"``.
        folders: further folders that contain environments, such as ``~/.virtualenvs``.
    """

    id = ENVIRONMENTS

    def __init__(
        self,
        project: str | os.PathLike[str] | None = None,
        *,
        sources: Sequence[Source] = ("project", "active", "conda"),
        folders: Sequence[str] = (),
    ) -> None:
        self._project = _absolute(os.curdir if project is None else os.fspath(project))
        self._sources = tuple(sources)
        self._folders = tuple(folders)

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take ``{"project": FOLDER, "sources": [...], "folders": [...]}``; each is optional.

        Raises:
            ValueError: *config* has another form.
        """
        if config is None:
            return
        from kernelproto.launch.environments.search import Configuration

        loaded = configuration(config, Configuration, self.id)
        if loaded.project is not None:
            self._project = _absolute(loaded.project)
        self._sources = loaded.sources
        self._folders = loaded.folders

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the environments; those that cannot be launched have the reason."""
        try:
            found = await _in_thread(self._find_kernels)
        except DiscoveryError as error:
            logger.warning("%s", error)
            return
        for kernel_type in found:
            yield kernel_type

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start the ipykernel of an environment.

        Args:
            name: the name of an environment from find_kernels(), or a full name.
            cwd: the kernel's working directory; None means the caller's. The search for
                environments does not depend on *cwd*.
            launch_params: as for ``pyimport/kernel``.

        Raises:
            NoSuchKernel: there is no such environment.
            IPykernelMissing: ipykernel is not installed in the environment.
            DiscoveryError: the search for environments has not ended after 10 seconds.
            LaunchError: the environment is broken or belongs to another user, or the kernel cannot
                be started.
        """

        def plan() -> LaunchPlan:
            return self.plan(name, cwd=cwd, launch_params=launch_params)

        from kernelproto.launch.launcher import launch  # listing kernel types does not need this

        return await launch(await _in_thread(plan))

    def plan(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        """Return the plan that launch() performs; arguments and exceptions as there."""
        # Imported here, because few launches need the search, and the import takes milliseconds.
        from kernelproto.launch.environments.kernels import kernel_named

        kernel = kernel_named(name, self._project, self._sources, self._folders, os.environ)
        if kernel.fault is not None:
            raise kernel.fault
        if kernel.skipped:
            logger.warning(
                "env/%s is launched without its activation scripts, which need a shell: %s",
                kernel.kernelspec.name,
                ", ".join(kernel.skipped),
            )
        from kernelproto.launch.launcher import this_host

        plan = plan_launch(
            self.id, kernel.kernelspec, this_host(), cwd=cwd, launch_params=launch_params
        )
        return msgspec.structs.replace(plan, unset=kernel.unset)

    def _find_kernels(self) -> list[tuple[str, KernelAttributes]]:
        from kernelproto.launch.environments.kernels import find_environment_kernels

        kernels = find_environment_kernels(self._project, self._sources, self._folders, os.environ)
        return [(kernel.kernelspec.name, kernel.attributes()) for kernel in kernels]


def _absolute(folder: str) -> str | None:
    """Return the real path of a folder; None if the working directory has been removed."""
    try:
        return os.path.realpath(os.path.expanduser(folder))
    except OSError:
        return None


async def _in_thread(function: Callable[[], ResultT]) -> ResultT:
    """Call a function in a thread, because a network folder may not answer.

    Raises:
        DiscoveryError: the function has not returned after 10 seconds.
    """
    with anyio.move_on_after(_SEARCH_SECONDS):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
    raise DiscoveryError(
        f"the search for environments has not ended after {_SEARCH_SECONDS:g} s: a network folder "
        "may not answer"
    )
