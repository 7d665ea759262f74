"""KernelSpec: what a folder with a ``kernel.json`` says about a kernel type.

Files are read synchronously, without a worker thread: thirty kernelspecs take 0.7 ms, and a launch
reads a single one of them.

Specification: "Kernel specs".
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from jupyter_core.paths import jupyter_path

from kernelproto.exceptions import InvalidKernelSpec
from kernelproto.interfaces import KernelAttributes

logger = logging.getLogger(__name__)

_SIMPLE_NAME = re.compile(r"[a-z0-9._-]+", re.IGNORECASE)


class KernelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel type that a ``kernel.json`` describes.

    Args:
        name: the folder's name in lower case.
        resource_dir: the folder, with logos and other resources.
        argv: the command line; ``{connection_file}`` and other names in braces are filled in.
        display_name: for people.
        language: the programming language.
        env: environment variables; ``${NAME}`` in a value is a variable of the launching process.
        interrupt_mode: how running code is interrupted, by SIGINT or by an interrupt_request.
        metadata: anything.
        kernel_protocol_version: of the messaging specification, as far as the kernel says.
    """

    name: str
    resource_dir: str
    argv: tuple[str, ...]
    display_name: str = ""
    language: str = ""
    env: Mapping[str, str] = {}
    interrupt_mode: Literal["signal", "message"] = "signal"
    metadata: Mapping[str, Any] = {}
    kernel_protocol_version: str = ""

    def attributes(self) -> KernelAttributes:
        """Return what a provider tells about this kernel type."""
        return KernelAttributes(
            display_name=self.display_name,
            language=self.language,
            argv=self.argv,
            env=self.env,
            interrupt_mode=self.interrupt_mode,
            metadata=self.metadata,
            resource_dir=self.resource_dir,
        )


_KEYS = {
    field.encode_name: field.type
    for field in msgspec.structs.fields(KernelSpec)
    if field.name not in ("name", "resource_dir")
}


def find_kernelspecs() -> dict[str, str]:
    """Return the folders of all kernelspecs by their names, which are in lower case.

    A name that is there several times belongs to the folder that comes first on the search path of
    Jupyter, also when that one turns out to be unreadable.
    """
    folders: dict[str, str] = {}
    for root in jupyter_path("kernels"):
        try:
            entries = sorted(os.listdir(root))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            logger.warning("kernelspecs in %s are skipped: %s", root, error)
            continue
        for entry in entries:
            folder = os.path.abspath(os.path.join(root, entry))
            if _SIMPLE_NAME.fullmatch(entry) and os.path.isfile(_kernel_json(folder)):
                folders.setdefault(entry.lower(), folder)
    return folders


def read_kernelspec(name: str, folder: str) -> KernelSpec:
    """Read the kernelspec in *folder*; keys that are unknown are ignored.

    Raises:
        InvalidKernelSpec: the file cannot be read, or one of its values is of the wrong kind.
    """
    path = _kernel_json(folder)
    try:
        with open(path, "rb") as file:
            entries = msgspec.json.decode(file.read(), type=dict[str, msgspec.Raw])
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidKernelSpec(f"{path} cannot be read: {error}", path=path) from error
    values: dict[str, Any] = {}
    for key in _KEYS.keys() & entries.keys():
        try:
            values[key] = msgspec.json.decode(entries[key], type=_KEYS[key])
        except (ValueError, RecursionError) as error:
            raise InvalidKernelSpec(f"{path}: {key!r}: {error}", path=path, key=key) from error
    if not values.get("argv"):
        raise InvalidKernelSpec(f"{path}: 'argv' is missing or empty", path=path, key="argv")
    return KernelSpec(name=name, resource_dir=folder, **values)


def read_kernelspecs() -> Iterator[KernelSpec]:
    """Read all kernelspecs, by name; an invalid one is logged and skipped."""
    for name, folder in sorted(find_kernelspecs().items()):
        try:
            kernelspec = read_kernelspec(name, folder)
        except InvalidKernelSpec as error:
            logger.warning("kernelspec %r is skipped: %s", name, error)
        else:
            yield kernelspec


def _kernel_json(folder: str) -> str:
    return os.path.join(folder, "kernel.json")
