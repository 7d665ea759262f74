"""The configuration of providers, kernel types that are settings, and the places in handles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from kernelproto.exceptions import DiscoveryError
from kernelproto.interfaces import KernelAttributes, KernelHandle
from kernelproto.launch.spec.kernelspec import InterruptMode
from kernelproto.launch.spec.naming import is_simple_name
from kernelproto.launch.spec.parameters import Argument, VariableName

T = TypeVar("T")


class KernelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings that kernel types of several providers have; see their subclasses."""

    command: tuple[Argument, ...] = (
        "python",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    )
    display_name: str = ""
    language: str = "python"
    interrupt_mode: InterruptMode = "signal"
    env: Mapping[VariableName, Argument] = {}

    def attributes(
        self, display_name: str, metadata: Mapping[str, object], fault: str | None
    ) -> KernelAttributes:
        """Return the description of the kernel type.

        Args:
            display_name: the name if the settings have none.
            metadata: further facts.
            fault: why the kernel cannot be launched here; None if a launch is possible.
        """
        attributes = KernelAttributes(
            display_name=self.display_name or display_name,
            language=self.language,
            argv=self.command,
            env=self.env,
            interrupt_mode=self.interrupt_mode,
            metadata=metadata,
        )
        if fault is not None:
            attributes["unavailable"] = fault
        return attributes


class ConfiguredKernels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a provider with kernel types defined by settings."""

    kernels: Mapping[str, KernelSettings] = {}


Configured = TypeVar("Configured", bound=ConfiguredKernels)


def configuration(config: Mapping[str, object], kind: type[T], provider_id: str) -> T:
    """Return the configuration of a provider as a Struct.

    Raises:
        ValueError: the configuration has another form.
    """
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"the configuration of {provider_id!r} is not valid: {error}") from error


def place_in(handle: KernelHandle, kind: type[T]) -> T:
    """Return the place in a handle as a Struct.

    Raises:
        DiscoveryError: the place has another form.
    """
    try:
        return msgspec.convert(handle.place, kind)
    except msgspec.ValidationError as error:
        raise DiscoveryError(
            f"the handle of kernel {handle.kernel_id!r} is not valid: {error}"
        ) from None


def checked(settings: Configured, provider_id: str) -> Configured:
    """Return settings with checked types and kernel types; a constructor checks no types.

    Raises:
        ValueError: a setting is not valid.
    """
    try:
        settings = msgspec.convert(msgspec.to_builtins(settings), type(settings))
    except msgspec.ValidationError as error:
        raise ValueError(f"the settings of {provider_id!r} are not valid: {error}") from error
    for name, kernel in settings.kernels.items():
        if not is_simple_name(name):
            raise ValueError(
                f"the kernel type {name!r} of {provider_id!r} must have only ASCII letters, "
                "digits, '.', '_' and '-' in its name"
            )
        if not kernel.command:
            raise ValueError(f"the kernel type {name!r} of {provider_id!r} has an empty command")
    return settings
