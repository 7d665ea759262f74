"""FarHost: the facts and the kernel types of a host, from the host's answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from kernelproto.launch.spec.kernelspec import InterruptMode, KernelSpec
from kernelproto.launch.spec.naming import is_simple_name, no_such_kernel
from kernelproto.launch.spec.parameters import Argument, Variables
from kernelproto.launch.spec.plan import Host
from kernelproto.ssh.failures import host_error

logger = logging.getLogger(__name__)

_Path = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"\A/[^\0]*\Z")]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]


class _FarKernel(msgspec.Struct, frozen=True):
    """A kernel.json of the host."""

    argv: tuple[Argument, ...]
    resource_dir: _Path
    display_name: _Text = ""
    language: _Text = ""
    env: Variables = {}
    interrupt_mode: InterruptMode = "signal"
    metadata: dict[str, Any] = {}


class FarHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host, as described by its answer.

    Args:
        host: the name that the host has for itself.
        python: the path of the Python that has answered.
        prefix: the host's ``sys.prefix``.
        environ: the environment of the user's programs there.
        kernels: the kernel types, not decoded yet.
        system: the host's ``sys.platform``.
        folder: the folder of the host's program; "" unless that was asked for.
    """

    host: _Text
    python: _Path
    prefix: _Path
    environ: dict[str, str]
    kernels: dict[str, msgspec.Raw]
    system: str = ""
    folder: str = ""

    @classmethod
    def of(cls, host: str, answer: Mapping[str, Any]) -> FarHost:
        """Return the host that an answer describes.

        Raises:
            RemoteHostError: the answer is not one of far_side.py.
        """
        try:
            return msgspec.json.decode(msgspec.json.encode(answer), type=cls)
        except msgspec.ValidationError as error:
            raise host_error(host, "other", f"its answer is not valid: {error}") from None

    def kernelspecs(self) -> Iterator[KernelSpec]:
        """Yield the kernel types with valid names and contents."""
        for name, raw in self.kernels.items():
            if not all(map(is_simple_name, name.split("/"))):
                continue
            try:
                found = msgspec.json.decode(raw, type=_FarKernel)
            except (msgspec.DecodeError, RecursionError) as error:
                logger.warning("the kernel type %r of %s is skipped: %s", name, self.host, error)
                continue
            if found.argv:
                yield KernelSpec(name=name, **msgspec.structs.asdict(found))

    def kernelspec(self, host: str, name: str) -> KernelSpec:
        """Return a kernel type by name.

        Raises:
            NoSuchKernel: the host has no such kernel type.
        """
        there = {spec.name: spec for spec in self.kernelspecs()}
        found = there.get(name) or there.get(name.lower())
        if found is None:
            names = [f"{host}/{known}" for known in there]
            raise no_such_kernel(f"{host}/{name}", names, remedy="install it on that host")
        return found

    def facts(self) -> Host:
        """Return the facts that a launch plan depends on."""
        return Host(python=self.python, prefix=self.prefix, has_ipc=True, has_curve=False)
