"""The kernels of environments: their descriptions, or the reasons why they cannot be launched."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kernelproto.exceptions import IPykernelMissing, LaunchError
from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.environments.activation import Activation, activation_of
from kernelproto.launch.environments.contents import Contents, read_contents
from kernelproto.launch.environments.installer import install_command
from kernelproto.launch.environments.place import Maker, Place
from kernelproto.launch.environments.search import Source, find_places, name_of
from kernelproto.launch.process.interpreter import ipykernel_command
from kernelproto.launch.spec.kernelspec import KernelSpec, find_resources
from kernelproto.launch.spec.naming import no_such_kernel

_OLDEST_MINOR = 8  # the oldest Python that programs/ipykernel.py is tried with

_DEBUGGER, _CURVE = (6, 0), (7, 3)  # the versions of ipykernel that have them


class EnvironmentKernel(msgspec.Struct, frozen=True):
    """The kernel of an environment.

    Args:
        kernelspec: the description.
        fault: the error of a launch; None if a launch is possible.
        unset: the variables that the kernel does not inherit.
        skipped: the activation scripts that are not run.
    """

    kernelspec: KernelSpec
    fault: LaunchError | None
    unset: tuple[str, ...]
    skipped: tuple[str, ...]

    def attributes(self) -> KernelAttributes:
        """Return the attributes of the kernel type, as a provider yields them."""
        attributes = self.kernelspec.attributes()
        if self.fault is not None:
            attributes["unavailable"] = str(self.fault)
        return attributes


def find_environment_kernels(
    start: str | None,
    sources: Sequence[Source],
    folders: Sequence[str],
    variables: Mapping[str, str],
) -> Iterator[EnvironmentKernel]:
    """Yield the kernels of all environments; arguments as for find_places()."""
    for name, place in find_places(start, sources, folders, variables).items():
        contents = read_contents(place.prefix)
        # Environments of conda without Python are for other languages.
        if contents.python is not None or place.maker not in ("conda", "pixi"):
            yield _kernel(name, place, contents, variables)


def kernel_named(
    name: str,
    start: str | None,
    sources: Sequence[Source],
    folders: Sequence[str],
    variables: Mapping[str, str],
) -> EnvironmentKernel:
    """Return the kernel of one environment; the other arguments as for find_places().

    Raises:
        NoSuchKernel: there is no such environment.
    """
    places = find_places(start, sources, folders, variables)
    known = name_of(name, places)
    if known is None:
        raise no_such_kernel(
            name, places, remedy="change to the folder of its project, or activate it first"
        )
    return _kernel(known, places[known], read_contents(places[known].prefix), variables)


def _kernel(
    name: str, place: Place, contents: Contents, variables: Mapping[str, str]
) -> EnvironmentKernel:
    activation = activation_of(place, variables)
    return EnvironmentKernel(
        _kernelspec(name, place, contents, activation),
        _fault(place, contents, variables),
        activation.unset,
        activation.skipped,
    )


def _maker(place: Place, contents: Contents) -> Maker:
    return "uv" if place.maker == "venv" and contents.is_from_uv else place.maker


def _fault(place: Place, contents: Contents, variables: Mapping[str, str]) -> LaunchError | None:
    """Return the error if no kernel can run in the environment; None if one can."""
    fault = place.fault()
    if fault is not None:
        return LaunchError(fault)
    if contents.python is None:
        return LaunchError(
            f"{place.prefix} has no interpreter that can be run: create the environment again"
        )
    _, _, minor = contents.version.partition(".")
    if minor and int(minor) < _OLDEST_MINOR:
        return LaunchError(
            f"{place.prefix} has Python {contents.version}: create an environment with Python "
            f"3.{_OLDEST_MINOR} or later"
        )
    if contents.ipykernel is None:
        command = install_command(place, contents, variables)
        return IPykernelMissing(
            f"ipykernel is not installed in {place.prefix}: run `{shlex.join(command)}`",
            prefix=place.prefix,
            command=command,
        )
    return None


def _kernelspec(name: str, place: Place, contents: Contents, activation: Activation) -> KernelSpec:
    resources = os.path.join(contents.ipykernel or place.prefix, "resources")
    python = contents.python or os.path.join(place.prefix, "bin", "python")
    metadata: dict[str, Any] = {
        "debugger": contents.ipykernel_version >= _DEBUGGER,
        "environment": {
            "prefix": place.prefix,
            "maker": _maker(place, contents),
            "full_name": place.full_name,
        },
    }
    if contents.ipykernel_version >= _CURVE:
        metadata["supported_encryption"] = ["curve"]
    return KernelSpec(
        name=name,
        resource_dir=resources,
        resources=find_resources(resources),
        argv=tuple(ipykernel_command(python, ["-f", "{connection_file}"])),
        display_name=f"Python {contents.version} ({_display_name(place, contents)})",
        language="python",
        env=activation.variables,
        metadata=metadata,
    )


def _display_name(place: Place, contents: Contents) -> str:
    maker = _maker(place, contents)
    if place.project is None:
        return f"{maker}: {place.label}"
    return f"{maker}: {os.path.basename(place.project)}, {os.path.basename(place.prefix)}"
