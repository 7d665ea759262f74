"""The kernelspecs of jupyter_server: those that are installed, and the types of all providers."""

# jupyter_client types its methods as synchronous functions, which its asynchronous classes replace,
# and traitlets' types are unknown to pyright.
# mypy: disable-error-code="override"
# pyright: basic

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, cast
from urllib.parse import quote

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_server.utils import url_path_join
from traitlets import Instance, default

from kernelproto.interfaces import KernelAttributes
from kernelproto.jupyter.kernel_types import jupyter_kernels
from kernelproto.jupyter.provisioned import names_provisioner
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec import kernelspec as launch_kernelspec
from kernelproto.launch.spec.naming import OWN_PYTHON

# These kernel types are kernelspecs, which KernelSpecManager lists by their own names.
_INSTALLED = ("spec/", "provisioned/", *(f"fork/{name}" for name in OWN_PYTHON))


class KernelProtoKernelSpecManager(KernelSpecManager):
    """Lists installed kernelspecs by name, and other kernel types as ``provider/name``.

    ``find_kernel_specs`` lists installed kernelspecs only, because it is a synchronous function.
    ``allowed_kernelspecs`` applies to all kernel types.

    Attributes:
        finder: finds and launches the kernel types.
    """

    finder = Instance(KernelFinder)

    @default("finder")
    def _finder_default(self) -> KernelFinder:
        return jupyter_kernels()

    async def get_all_specs(self) -> dict[str, Any]:
        """Return all kernel types by name, each with the kernelspec and the URLs of the logos."""
        found: dict[str, Any] = super().get_all_specs()
        async for name, attributes in self._provided():
            spec = _kernelspec(attributes)
            found[name] = {
                "name": name,
                "spec": spec.to_dict(),
                "resource_dir": spec.resource_dir,
                "resources": self._resources(name, attributes),
            }
        return found

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec | Awaitable[KernelSpec]:
        """Return a kernelspec; an awaitable if the name is ``provider/name``.

        Raises:
            NoSuchKernel: the kernel type does not exist, or is not allowed.
        """
        if self.allowed_kernelspecs and kernel_name not in self.allowed_kernelspecs:
            raise NoSuchKernel(kernel_name)
        if "/" in kernel_name:
            return self._find(kernel_name)
        return super().get_kernel_spec(kernel_name)

    async def _find(self, kernel_name: str) -> KernelSpec:
        async for name, attributes in self._provided():
            if name == kernel_name:
                return _kernelspec(attributes)
        raise NoSuchKernel(kernel_name)

    async def _provided(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        async for name, attributes in self.finder.find_kernels():
            is_allowed = not self.allowed_kernelspecs or name in self.allowed_kernelspecs
            if is_allowed and not name.startswith(_INSTALLED) and "unavailable" not in attributes:
                yield name, attributes

    def _resources(self, name: str, attributes: KernelAttributes) -> dict[str, str]:
        base_url = getattr(self.parent, "base_url", "/")
        return {
            key: url_path_join(
                base_url, "kernelspecs", quote(name, safe=""), path.rpartition("/")[2]
            )
            for key, path in attributes.get("resources", {}).items()
        }


def kernel_type_of(name: str, spec: KernelSpec) -> str:
    """Return the kernel type that a KernelFinder launches for the name of a kernelspec.

    Args:
        name: the name, or ``provider/name``.
        spec: the kernelspec, which may name a provisioner.
    """
    if "/" in name:
        return name
    read = launch_kernelspec.KernelSpec(
        name=name, resource_dir=spec.resource_dir, argv=tuple(spec.argv), metadata=spec.metadata
    )
    return f"provisioned/{name}" if names_provisioner(read) else name


def _kernelspec(attributes: KernelAttributes) -> KernelSpec:
    """Return the kernelspec of a kernel type, without the environment, which may hold secrets."""
    names = ("display_name", "language", "interrupt_mode")
    about = cast("Mapping[str, Any]", attributes)
    return KernelSpec(
        argv=list(attributes.get("argv", ())),
        metadata=dict(attributes.get("metadata", {})),
        resource_dir=attributes.get("resource_dir", ""),
        **{name: about[name] for name in names if name in about},
    )
