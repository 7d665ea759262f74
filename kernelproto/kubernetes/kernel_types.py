"""KernelTypes: the kernel types of the settings, and those of a ConfigMap in the cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import anyio
import msgspec

from kernelproto.exceptions import LaunchError
from kernelproto.kubernetes.api import Api
from kernelproto.kubernetes.pod import template_fault
from kernelproto.kubernetes.settings import KubernetesSettings, PodKernel
from kernelproto.launch.spec.configuration import checked
from kernelproto.launch.spec.naming import is_simple_name, no_such_kernel

logger = logging.getLogger(__name__)

# A server lists its kernel types again and again.
_KEPT_SECONDS = 60.0

_SEARCH_SECONDS = 10.0


class KernelTypes:
    """Finds kernel types.

    Args:
        settings: the settings of the provider.
        api: reads the ConfigMap.

    Raises:
        ValueError: a setting is not valid.
    """

    def __init__(self, settings: KubernetesSettings, api: Api) -> None:
        settings = checked(settings, "kubernetes")
        for name, kernel in settings.kernels.items():
            fault = template_fault(kernel)
            if fault is not None:
                raise ValueError(f"the kernel type {name!r} of 'kubernetes' is not valid: {fault}")
        self._settings = settings
        self._api = api
        self._found: tuple[float, Mapping[str, PodKernel]] | None = None

    async def all(self) -> dict[str, PodKernel]:
        """Return all kernel types; those of a ConfigMap that cannot be read are left out."""
        found: Mapping[str, PodKernel] = {}
        try:
            with anyio.fail_after(_SEARCH_SECONDS):
                found = await self._in_cluster()
        except (LaunchError, TimeoutError) as error:
            logger.warning(
                "the kernel types of the ConfigMap %r are left out: %s",
                self._settings.config_map,
                str(error) or "the API of the cluster does not answer",
            )
        return {**found, **self._settings.kernels}

    async def one(self, name: str) -> PodKernel:
        """Return a kernel type.

        Raises:
            NoSuchKernel: there is none of this name.
            LaunchError: the ConfigMap cannot be read.
        """
        kernels = {**self._settings.kernels}
        if name not in kernels:
            kernels = {**await self._in_cluster(), **kernels}
        if name not in kernels:
            remedy = "add it to the kernels of the provider 'kubernetes'"
            raise no_such_kernel(name, kernels, remedy=remedy)
        return kernels[name]

    async def _in_cluster(self) -> Mapping[str, PodKernel]:
        name = self._settings.config_map
        if name is None:
            return {}
        now = anyio.current_time()
        if self._found is None or now - self._found[0] > _KEPT_SECONDS:
            async with self._api.connected() as connection:
                body = await connection.get("configmaps", name)
            if body is None:
                raise LaunchError(
                    f"there is no ConfigMap {name!r} in the namespace {connection.namespace!r}: "
                    "create it, or correct 'config_map' of the provider 'kubernetes'"
                )
            self._found = now, _kernel_types(name, body.get("data") or {})
        return self._found[1]


def _kernel_types(config_map: str, data: Mapping[str, str]) -> dict[str, PodKernel]:
    """Return the kernel types in a ConfigMap; one that is not valid is logged and left out."""
    found: dict[str, PodKernel] = {}
    for key, text in sorted(data.items()):
        name = key.removesuffix(".json")
        fault: object
        try:
            kernel = msgspec.json.decode(text, type=PodKernel)
            fault = template_fault(kernel)
            if fault is None and not kernel.command:
                fault = "it has an empty command"
            if fault is None and not is_simple_name(name):
                fault = "its name must have only ASCII letters, digits, '.', '_' and '-'"
        except (ValueError, TypeError, AttributeError) as error:
            kernel, fault = None, error
        if kernel is None or fault is not None:
            logger.warning(
                "the kernel type %r of the ConfigMap %r is left out: %s", name, config_map, fault
            )
        else:
            found[name] = kernel
    return found
