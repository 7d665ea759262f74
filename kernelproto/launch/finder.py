"""KernelFinder: the kernel types of all providers, under names like ``spec/python3``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from importlib.metadata import entry_points

from kernelproto.exceptions import NoSuchKernel
from kernelproto.interfaces import KernelAttributes, KernelManager, KernelProvider
from kernelproto.launch.naming import no_such_kernel
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_ENTRY_POINTS = "kernelproto.kernel_providers"
_FIRST_PROVIDER = "spec"

KernelType = tuple[str, KernelAttributes]


class KernelFinder:
    """Finds and launches the kernel types that some providers have.

    Args:
        providers: asked in this order. Where two have the same id, the first one counts.
    """

    def __init__(self, providers: Iterable[KernelProvider]) -> None:
        self._providers: dict[str, KernelProvider] = {}
        for provider in providers:
            if self._providers.setdefault(provider.id, provider) is not provider:
                logger.warning("a second kernel provider with the id %r is skipped", provider.id)

    @classmethod
    def from_entrypoints(cls) -> KernelFinder:
        """Make a finder with every provider that an installed package declares.

        They are declared as entry points of the group ``kernelproto.kernel_providers``, each naming
        a callable without arguments. One that fails is logged and skipped.
        """
        providers: list[KernelProvider] = []
        for entry_point in entry_points(group=_ENTRY_POINTS):
            try:
                provider = entry_point.load()()
                if not isinstance(provider, KernelProvider):
                    raise TypeError(f"{provider!r} is not a KernelProvider")
            except Exception:
                logger.warning("kernel provider %s is skipped", entry_point.value, exc_info=True)
            else:
                providers.append(provider)
        return cls(providers)

    def find_kernels(self) -> AsyncIterator[KernelType]:
        """Iterate over all kernel types: ``provider/name``, and what the provider tells about it.

        A provider that fails is logged and skipped. The loop may be left at any time.
        """
        return _KernelTypes(self._providers.values())

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a kernel; it is not ready yet when this returns.

        Args:
            name: ``provider/name``. A name without a slash means ``spec/name``, and where there is
                none, the first provider that has it.
            cwd: the kernel's working directory; None means the caller's.
            launch_params: ``env`` and ``transport`` have a meaning everywhere; the rest is the
                provider's own.

        Raises:
            NoSuchKernel: there is no such kernel type.
            InvalidKernelSpec: there is, but its ``kernel.json`` cannot be used.
            LaunchError: the kernel cannot be started.
        """
        provider_id, slash, kernel = name.partition("/")
        if slash:
            candidates = [self._providers[provider_id]] if provider_id in self._providers else []
        else:
            kernel = name
            candidates = sorted(
                self._providers.values(), key=lambda provider: provider.id != _FIRST_PROVIDER
            )
        refusal: NoSuchKernel | None = None
        for provider in candidates:
            try:
                return await provider.launch(kernel, cwd=cwd, launch_params=launch_params)
            except NoSuchKernel as error:
                refusal = error
        raise no_such_kernel(
            name,
            [available async for available, _ in self.find_kernels()],
            remedy="install what is missing (for Python: pip install ipykernel)",
        ) from refusal


class _KernelTypes(AsyncIterator[KernelType]):
    """The loop over the providers.

    Not a generator, because one that is not exhausted must be closed: Trio warns if it is not.
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
        # All at once: nothing of the provider is left open while the user looks at the first.
        found = [kernel async for kernel in provider.find_kernels()]
        return [(f"{provider.id}/{name}", attributes) for name, attributes in found]
    except Exception:
        logger.warning("kernel provider %r is skipped", provider.id, exc_info=True)
        return []
