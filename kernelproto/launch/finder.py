"""KernelFinder: the kernel types of all providers, under names like ``spec/python3``."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from kernelproto.exceptions import DiscoveryError, LaunchError, NoSuchKernel
from kernelproto.interfaces import (
    Adopts,
    KernelAttributes,
    KernelHandle,
    KernelManager,
    KernelProvider,
    TakesConfig,
)
from kernelproto.kept_messages import AdoptsMessages
from kernelproto.launch.failures import shortages_named
from kernelproto.launch.provider_faults import (
    DISCOVERY_DESCRIPTORS,
    BrokenProvider,
    checked_launch,
    faults_named,
)
from kernelproto.launch.spec.naming import (
    ENVIRONMENTS,
    LOCAL,
    OWN_KERNEL,
    is_simple_name,
    means_own_python,
    no_such_kernel,
    provider_rank,
)
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.shortage import require_descriptors
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

logger = logging.getLogger(__name__)

_INSTALL = "install a kernel (for Python: pip install ipykernel)"
_CHOOSE = "choose one of these, or install the kernelspec of another one"

KernelType = tuple[str, KernelAttributes]

_GROUP = "kernelproto.kernel_providers"

# A folder that changed just now may be in the middle of an installation. Changes in its subfolders,
# or within one tick of the clock, do not change its time again.
_SETTLED_SECONDS = 2

_SearchPath = tuple[tuple[object, ...], ...]
_Found = tuple["EntryPoint", ...]

_last_scan: tuple[_SearchPath, _Found] | None = None


@runtime_checkable
class PlansLaunch(Protocol):
    """Optional part of a KernelProvider: the plan of a launch."""

    def plan(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        """Return how launch() would start the kernel; arguments and exceptions as there."""
        ...


class KernelFinder:
    """Finds and launches the kernel types that some providers have.

    Args:
        providers: the providers, in this order. If two have the same id, the first one counts. A
            provider is logged and skipped if its id has other characters than ASCII letters,
            digits, ``.``, ``_`` and ``-``.
    """

    def __init__(self, providers: Iterable[KernelProvider]) -> None:
        self._providers: dict[str, KernelProvider] = {}
        for provider in providers:
            if not is_simple_name(provider.id):
                logger.warning("kernel provider %r is skipped: its id is not valid", provider.id)
            elif self._providers.setdefault(provider.id, provider) is not provider:
                logger.warning("a second kernel provider %r is skipped", provider.id)

    @classmethod
    def from_entrypoints(cls, *preferred: KernelProvider) -> KernelFinder:
        """Make a finder with every provider that an installed package declares, ``env`` last.

        Packages declare them as entry points of the group ``kernelproto.kernel_providers``; each
        names a callable without arguments. A provider that fails is logged and skipped.

        Args:
            preferred: further providers, which replace declared ones with the same id.

        Raises:
            LaunchError: there are too few file descriptors left to look for providers.
        """
        providers = list(preferred)
        replaced = {provider.id for provider in preferred}
        with shortages_named():
            require_descriptors(DISCOVERY_DESCRIPTORS)
            entry_points = declared_providers()
        for entry_point in sorted(entry_points, key=lambda found: found.name == ENVIRONMENTS):
            try:
                provider = entry_point.load()()
                if not isinstance(provider, KernelProvider):
                    raise TypeError(f"{provider!r} is not a KernelProvider")
            except Exception:
                logger.warning("kernel provider %s is skipped", entry_point.value, exc_info=True)
            else:
                if provider.id not in replaced:
                    providers.append(provider)
        return cls(providers)

    def load_config(self, config: Mapping[str, object]) -> None:
        """Pass every provider with a ``load_config`` method its part of *config*.

        A provider without a part gets None. A provider that fails is logged and removed, because
        its configuration would have no effect.

        Args:
            config: for each provider's id a mapping.

        Raises:
            DiscoveryError: a part is not a mapping; then no provider has been configured.
        """
        for provider_id, part in config.items():
            if not isinstance(part, Mapping):
                raise DiscoveryError(
                    f"the configuration of the kernel provider {provider_id!r} must be a mapping, "
                    f"not {type(part).__name__}"
                )
            if provider_id not in self._providers:
                logger.warning("there is no kernel provider %r to configure", provider_id)
        for provider_id, provider in list(self._providers.items()):
            if isinstance(provider, TakesConfig):
                try:
                    provider.load_config(cast(Mapping[str, object] | None, config.get(provider_id)))
                except Exception:
                    logger.warning("kernel provider %r is skipped", provider_id, exc_info=True)
                    del self._providers[provider_id]

    def find_kernels(self) -> AsyncIterator[KernelType]:
        """Iterate over all kernel types: ``provider/name`` and the attributes.

        A provider that fails is logged and skipped. You may leave the loop at any time.
        """
        return _KernelTypes(self._providers.values())

    async def launch(
        self,
        kernel_type: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a kernel, which need not be ready on return.

        Args:
            kernel_type: ``provider/name``. A name without a slash means ``fork/name``, or else
                ``spec/name``, or else the kernel type of the first provider that has the name; a
                broken provider is logged and skipped. ``python`` and ``python3`` mean
                ``pyimport/kernel`` if no provider has them. A name without a slash never means an
                environment, ``env/name``.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: every provider knows ``env`` and ``transport``; the rest depends on the
                provider.

        Raises:
            NoSuchKernel: the kernel type does not exist.
            InvalidKernelSpec: its ``kernel.json`` cannot be used.
            LaunchError: the kernel cannot be started, or the provider is broken.
        """
        refusal: NoSuchKernel | None = None
        failure: BrokenProvider | None = None
        for provider, kernel in self.candidates(kernel_type):
            try:
                with faults_named(provider.id, kernel):
                    launched = await provider.launch(kernel, cwd=cwd, launch_params=launch_params)
                return checked_launch(provider.id, kernel, launched)
            except NoSuchKernel as error:
                refusal = error
            except BrokenProvider as error:
                if "/" in kernel_type:
                    raise LaunchError(str(error)) from error.__cause__
                logger.warning("%s", error, exc_info=error.__cause__)
                failure = error
        if failure is not None:
            raise LaunchError(str(failure)) from failure.__cause__
        raise await self._no_such_kernel(kernel_type) from refusal

    async def adopt(
        self, handle: KernelHandle, *, replays: bool = False
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Adopt a running kernel, so that this program owns the kernel.

        Args:
            handle: the handle that the kernel's manager gave to any program.
            replays: whether a provider that can adopts messages as well; see ``AdoptsMessages``.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or no provider here can adopt the kernel.
            LaunchError: the provider is broken, or the system lacks a resource.
        """
        host: Adopts | KernelProvider | None = self._providers.get(handle.host)
        if host is None and handle.host == LOCAL:
            from kernelproto.launch.adopt import LocalHost  # few programs need this module

            host = LocalHost()
        if not isinstance(host, Adopts):
            raise DiscoveryError(
                f"the kernel {handle.kernel_id!r} cannot be adopted, because "
                + ("there is no" if host is None else "this program cannot adopt with the")
                + f" kernel provider {handle.host!r}: install or update the package that has it"
            )
        try:
            with faults_named(handle.host, handle.kernel_id, "adopting"):
                if replays and isinstance(host, AdoptsMessages):
                    launched = await host.adopt_messages(handle)
                else:
                    launched = await host.adopt(handle)
            return checked_launch(handle.host, handle.kernel_id, launched, "adopting")
        except BrokenProvider as error:
            raise LaunchError(str(error)) from error.__cause__

    async def plan(
        self,
        kernel_type: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        """Return the plan that launch() would perform, without starting anything.

        The providers in kernelproto have plans. Those of other packages may have them: see
        PlansLaunch.

        Args:
            kernel_type: as for launch().
            cwd: as for launch().
            launch_params: as for launch().

        Raises:
            NoSuchKernel: the kernel type does not exist.
            InvalidKernelSpec: its ``kernel.json`` cannot be used.
            LaunchError: the parameters are wrong, or the provider has no plans.
        """
        refusal: NoSuchKernel | None = None
        for provider, kernel in self.candidates(kernel_type):
            if isinstance(provider, PlansLaunch):
                try:
                    with faults_named(provider.id, kernel):
                        return provider.plan(kernel, cwd=cwd, launch_params=launch_params)
                except NoSuchKernel as error:
                    refusal = error
                except BrokenProvider as error:
                    raise LaunchError(str(error)) from error.__cause__
            elif "/" in kernel_type or f"{provider.id}/{kernel}" in dict(
                await _kernels_of(provider)
            ):
                raise LaunchError(
                    f"the kernel provider {provider.id!r} cannot show how it launches {kernel!r}: "
                    "it has no method 'plan'"
                )
        raise await self._no_such_kernel(kernel_type) from refusal

    def candidates(self, kernel_type: str) -> Iterator[tuple[KernelProvider, str]]:
        """Yield the providers that may have the kernel type, in order, each with the name there."""
        provider_id, slash, kernel = kernel_type.partition("/")
        if slash:
            candidates = [(provider_id, kernel)]
        else:
            providers = sorted(self._providers, key=provider_rank)
            candidates = [(known, kernel_type) for known in providers if known != ENVIRONMENTS]
            if means_own_python(kernel_type):
                own_provider, _, own_kernel = OWN_KERNEL.partition("/")
                candidates.append((own_provider, own_kernel))
        for provider_id, kernel in candidates:
            if provider_id in self._providers:
                yield self._providers[provider_id], kernel

    async def _no_such_kernel(self, kernel_type: str) -> NoSuchKernel:
        return no_such_kernel(
            kernel_type,
            [available async for available, _ in self.find_kernels()],
            remedy=_INSTALL if importlib.util.find_spec("ipykernel") is None else _CHOOSE,
        )


class _KernelTypes(AsyncIterator[KernelType]):
    """The loop over the providers.

    Not a generator, because Trio warns of generators that are neither exhausted nor closed.
    """

    def __init__(self, providers: Iterable[KernelProvider]) -> None:
        self._providers = iter(providers)
        self._found: Iterator[KernelType] = iter(())

    async def __anext__(self) -> KernelType:
        while True:
            for kernel_type in self._found:
                return kernel_type
            provider = next(self._providers, None)
            if provider is None:
                raise StopAsyncIteration
            self._found = iter(await _kernels_of(provider))


async def _kernels_of(provider: KernelProvider) -> list[KernelType]:
    try:
        # All at once, so that no generator of the provider stays open between two steps.
        found: list[Any] = [kernel async for kernel in provider.find_kernels()]
        for name, attributes in found:
            if not (isinstance(name, str) and isinstance(attributes, Mapping)):
                raise TypeError(f"it found {name!r} with {attributes!r}, not a name with a mapping")
        return [(f"{provider.id}/{name}", attributes) for name, attributes in found]
    except Exception:
        logger.warning("kernel provider %r is skipped", provider.id, exc_info=True)
        return []


def declared_providers() -> tuple[EntryPoint, ...]:
    """Return the entry points of the group ``kernelproto.kernel_providers``, not loaded yet.

    A scan of 85 packages takes 2 ms, and every launch without a finder of its own needs one. So the
    last scan is kept until something on ``sys.path`` changes.
    """
    global _last_scan
    search_path, has_settled = _look_at_search_path()
    if _last_scan is not None and _last_scan[0] == search_path:
        return _last_scan[1]
    from importlib.metadata import entry_points  # loads a parser for e-mails

    found = tuple(entry_points(group=_GROUP))
    _last_scan = (search_path, found) if has_settled else None
    return found


def _look_at_search_path() -> tuple[_SearchPath, bool]:
    """Return a value that an installation changes, and whether a scan may be kept."""
    folders: list[tuple[object, ...]] = [tuple(map(id, sys.meta_path))]
    newest = 0.0
    for folder in sys.path:
        try:
            status = os.stat(folder or os.curdir)
        except OSError:
            folders.append((folder,))
        else:
            folders.append((folder, status.st_dev, status.st_ino, status.st_mtime_ns))
            newest = max(newest, status.st_mtime)
    return tuple(folders), time.time() - newest > _SETTLED_SECONDS
