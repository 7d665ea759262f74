"""KernelSpec: the description of a kernel type in a folder with a ``kernel.json``.

Files are read synchronously, without a worker thread: thirty kernelspecs take 2.3 ms, and a launch
reads a single one of them.

Specification: "Kernel specs".
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast

import msgspec
from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir, jupyter_path

from kernelproto.exceptions import DiscoveryError, InvalidKernelSpec
from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.own_files import read_regular_file
from kernelproto.launch.spec.naming import is_simple_name, no_such_kernel
from kernelproto.launch.spec.parameters import Argument, Variables
from kernelproto.launch.spec.schema import ParameterSchema

logger = logging.getLogger(__name__)

InterruptMode: TypeAlias = Literal["signal", "message"]

_SCHEMA_KEYS = ("launch_parameter_schema", "parameters")
_SCRIPTS_AND_STYLES = ("kernel.css", "kernel.js")
_SHOWN_CHARACTERS = 200
_CASELESS = ("interrupt_mode",)
_LOGO_TYPES = (".png", ".svg")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors begin a file with this mark

# Metadata of jupyter_client and Jupyter Enterprise Gateway that names another launcher: the key,
# the entry with the launcher's name, and the launchers that mean the same as this package's.
_LAUNCHERS = (
    ("kernel_provisioner", "provisioner_name", ("local-provisioner", "kernelproto")),
    ("process_proxy", "class_name", ("LocalProcessProxy",)),
)


class KernelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel type that a ``kernel.json`` describes.

    Args:
        name: the folder's name in lower case.
        resource_dir: the folder, with logos and other resources.
        argv: the command line; ``{connection_file}`` and other names in braces are filled in.
        display_name: for people.
        language: the programming language.
        env: environment variables; ``${NAME}`` in a value is a variable of the launching process,
            and the names of launch parameters in braces are filled in.
        interrupt_mode: how running code is interrupted, by SIGINT or by an interrupt_request.
        metadata: anything; ``launch_parameter_schema``, or else ``parameters``, is a JSON Schema
            for the launch parameters.
        kernel_protocol_version: of the messaging specification, as far as the kernel says.
        resources: the paths of the logos, under their file names without the suffix
            (``logo-64x64``), and of ``kernel.js`` and ``kernel.css``, as far as they are there.
    """

    name: str
    resource_dir: str
    argv: tuple[Argument, ...]
    display_name: str = ""
    language: str = ""
    env: Variables = {}
    interrupt_mode: InterruptMode = "signal"
    metadata: Mapping[str, Any] = {}
    kernel_protocol_version: str = ""
    resources: Mapping[str, str] = {}

    @property
    def path(self) -> str:
        """The kernel.json."""
        return _kernel_json(self.resource_dir)

    def attributes(self) -> KernelAttributes:
        """Return the attributes of this kernel type, as a provider yields them."""
        attributes = KernelAttributes(
            display_name=self.display_name,
            language=self.language,
            argv=self.argv,
            env=self.env,
            interrupt_mode=self.interrupt_mode,
            metadata=self.metadata,
            resource_dir=self.resource_dir,
            resources=self.resources,
        )
        fault = self.launch_fault()
        if fault is not None:
            attributes["unavailable"] = str(fault)
        return attributes

    def launch_fault(self) -> InvalidKernelSpec | None:
        """Return the error if the metadata names another launcher; otherwise None."""
        for key, entry, local in _LAUNCHERS:
            launcher = self.metadata.get(key)
            if launcher is None:
                continue
            if isinstance(launcher, Mapping):
                stanza = cast(Mapping[str, Any], launcher)
                launcher = stanza.get(entry, local[0])
                if str(launcher).rpartition(".")[2] in local and not stanza.get("config"):
                    continue
            other = (
                f"provisioned/{self.name}" if key == "kernel_provisioner" else "a program with it"
            )
            return InvalidKernelSpec(
                f"{self.path}: 'metadata.{key}' names the launcher "
                f"{repr(launcher)[:_SHOWN_CHARACTERS]}, without which the kernel would run as a "
                f"process on this machine: start the kernel with {other}, or remove the entry "
                f"{key!r} from the kernelspec",
                path=self.path,
                key=f"metadata.{key}",
            )
        return None

    def parameter_schema(self) -> ParameterSchema | None:
        """Return the schema of the launch parameters in the metadata; None if there is none.

        Raises:
            InvalidKernelSpec: the schema is not a JSON Schema.
        """
        for key in _SCHEMA_KEYS:
            if self.metadata.get(key) is not None:
                return ParameterSchema(self.metadata[key], path=self.path, key=f"metadata.{key}")
        return None


_KEYS = {
    field.encode_name: field.type
    for field in msgspec.structs.fields(KernelSpec)
    if field.name not in ("name", "resource_dir", "resources")
}


def kernelspec_folders() -> list[str]:
    """Return the folders that are searched for kernelspecs, in order of precedence.

    They are those of Jupyter: ``JUPYTER_PATH``, the user's, those of the running Python, the
    system's. If ``JUPYTER_PREFER_ENV_PATH`` says so, and in a virtual environment unless that
    variable is 0, the running Python's come before the user's.
    """
    return [os.path.abspath(folder) for folder in jupyter_path("kernels")]


def find_kernelspecs() -> dict[str, str]:
    """Return the folders of all kernelspecs by their names, which are in lower case.

    If several folders have the same name, the first one on Jupyter's search path counts, even if it
    is unreadable: silently starting another kernel would be worse than an error.
    """
    folders: dict[str, str] = {}
    for root in kernelspec_folders():
        try:
            entries = sorted(os.listdir(root))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            logger.warning("kernelspecs in %s are skipped: %s", root, error)
            continue
        for entry in entries:
            folder = os.path.join(root, entry)
            if is_simple_name(entry) and _has_kernel_json(folder):
                folders.setdefault(entry.lower(), folder)
    return folders


def read_kernelspec(name: str, folder: str) -> KernelSpec:
    """Read the kernelspec in *folder*; ignore unknown keys.

    Raises:
        InvalidKernelSpec: the file cannot be read, or a value is of the wrong kind.
    """
    path = _kernel_json(folder)
    try:
        text = read_regular_file(path).removeprefix(_BYTE_ORDER_MARK)
        entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidKernelSpec(f"{path} cannot be read: {reason}", path=path) from error
    values: dict[str, Any] = {}
    for key in _KEYS.keys() & entries.keys():
        try:
            text = bytes(entries[key])
            values[key] = msgspec.json.decode(
                text.lower() if key in _CASELESS else text, type=_KEYS[key]
            )
        except (ValueError, RecursionError) as error:
            raise InvalidKernelSpec(f"{path}: {key!r}: {error}", path=path, key=key) from error
    if not values.get("argv"):
        raise InvalidKernelSpec(f"{path}: 'argv' is missing or empty", path=path, key="argv")
    if not values["argv"][0]:
        raise InvalidKernelSpec(f"{path}: 'argv' names no program", path=path, key="argv")
    kernelspec = KernelSpec(
        name=name, resource_dir=folder, resources=find_resources(folder), **values
    )
    kernelspec.parameter_schema()  # raises
    return kernelspec


def read_kernelspecs() -> Iterator[KernelSpec]:
    """Yield all valid kernelspecs by name; log and skip the others."""
    for name, folder in sorted(find_kernelspecs().items()):
        try:
            kernelspec = read_kernelspec(name, folder)
        except InvalidKernelSpec as error:
            logger.warning("kernelspec %r is skipped: %s", name, error)
        else:
            yield kernelspec


def find_resources(folder: str) -> dict[str, str]:
    """Return the paths of logos, scripts and style sheets under the names that Jupyter gives them.

    An SVG logo takes precedence over a PNG logo of the same name.
    """
    resources: dict[str, str] = {}
    try:
        files = sorted(os.listdir(folder))
    except OSError:
        return resources  # the folder cannot be listed, but the kernel.json may be readable
    for file in files:
        stem, suffix = os.path.splitext(file)
        path = os.path.join(folder, file)
        is_logo = file.startswith("logo-") and suffix.lower() in _LOGO_TYPES
        if (is_logo or file in _SCRIPTS_AND_STYLES) and os.path.isfile(path):
            resources[stem if is_logo else file] = path
    return resources


def install_kernelspec(
    source_dir: str | os.PathLike[str],
    name: str | None = None,
    *,
    user: bool = False,
    prefix: str | os.PathLike[str] | None = None,
    replace: bool = False,
    display_name: str | None = None,
) -> str:
    """Copy a kernelspec to a folder where kernels are searched; return the new folder.

    The copy is first made under another name, so that no program finds an incomplete copy, and a
    failure leaves nothing behind. A kernelspec that is replaced is missing for an instant.

    Args:
        source_dir: a folder with a valid ``kernel.json``; the whole folder is copied.
        name: the name of the kernelspec, by default the folder's; changed to lower case.
        user: install the kernelspec for the current user.
        prefix: install the kernelspec for the Python environment with this ``sys.prefix``. Without
            *user* and *prefix*, the kernelspec is installed for all users.
        replace: whether a kernelspec of the same name, ignoring case, may be replaced.
        display_name: the display name of the copy; by default that of the source.

    Raises:
        InvalidKernelSpec: the kernelspec in *source_dir* cannot be used.
        DiscoveryError: *name* has other characters than ASCII letters, digits, ``.``, ``_`` and
            ``-``, a kernelspec of this name exists, or the folder cannot be written to.
        ValueError: both *user* and *prefix* are given.
    """
    if user and prefix is not None:
        raise ValueError("user and prefix exclude each other")
    source = os.path.abspath(source_dir)
    name = (os.path.basename(source) if name is None else name).lower()
    if not is_simple_name(name):
        raise DiscoveryError(
            f"invalid kernelspec name {name!r}: use only ASCII letters, digits, '.', '_' and '-'"
        )
    read_kernelspec(name, source)  # raises
    root = _kernelspec_root(user, prefix)
    if root not in kernelspec_folders():
        logger.warning("%s is not on the search path, so %r will not be found", root, name)
    try:
        os.makedirs(root, exist_ok=True)
        with _workshop(root) as workshop:
            new = os.path.join(workshop, "new", name)
            shutil.copytree(source, new)
            if display_name is not None:
                _write_display_name(_kernel_json(new), display_name)
            present = [entry for entry in os.listdir(root) if entry.lower() == name]
            if present and not replace:
                raise DiscoveryError(
                    f"there is a kernelspec {name!r} in {root} already; to replace it, pass "
                    "replace=True (on the command line --replace)"
                )
            return _exchange(root, workshop, present, new)
    except OSError as error:
        raise DiscoveryError(
            f"cannot install the kernelspec {name!r} in {root}: {error}"
        ) from error


def remove_kernelspec(name: str) -> str:
    """Remove the kernelspec *name*; return the removed folder.

    The folder disappears atomically, not file by file. If the folder is a symbolic link, only the
    link is removed. Afterwards a kernelspec of the same name in a later folder of the search path
    can be found.

    Raises:
        NoSuchKernel: the kernelspec does not exist.
        DiscoveryError: the folder cannot be removed.
    """
    folders = find_kernelspecs()
    folder = folders.get(name.lower())
    if folder is None:
        raise no_such_kernel(name, folders, remedy="nothing was removed")
    try:
        with _workshop(os.path.dirname(folder)) as workshop:
            os.rename(folder, os.path.join(workshop, "old"))
    except OSError as error:
        raise DiscoveryError(f"cannot remove the kernelspec in {folder}: {error}") from error
    return folder


def _kernelspec_root(user: bool, prefix: str | os.PathLike[str] | None) -> str:
    if user:
        return os.path.join(os.path.abspath(jupyter_data_dir()), "kernels")
    if prefix is not None:
        return os.path.join(os.path.abspath(prefix), "share", "jupyter", "kernels")
    return os.path.join(SYSTEM_JUPYTER_PATH[0], "kernels")


@contextmanager
def _workshop(root: str) -> Generator[str]:
    """Make a folder in *root* for the block; without a kernel.json, no kernelspec."""
    workshop = tempfile.mkdtemp(prefix=".kernelspec-", dir=root)
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        if os.path.lexists(workshop):
            logger.warning("%s is left behind: not all of it can be removed", workshop)


def _exchange(root: str, workshop: str, present: Sequence[str], new: str) -> str:
    """Move *new* to *root* and the *present* entries to the workshop; undo both on failure."""
    destination = os.path.join(root, os.path.basename(new))
    moved: list[tuple[str, str]] = []
    try:
        for number, entry in enumerate(present):
            there, away = os.path.join(root, entry), os.path.join(workshop, f"old-{number}")
            os.rename(there, away)
            moved.append((there, away))
        os.rename(new, destination)
    except OSError:
        for there, away in moved:
            os.rename(away, there)
        raise
    return destination


def _kernel_json(folder: str) -> str:
    return os.path.join(folder, "kernel.json")


def _write_display_name(path: str, display_name: str) -> None:
    with open(path, "rb") as file:
        entries = msgspec.json.decode(file.read().removeprefix(_BYTE_ORDER_MARK))
    os.unlink(path)  # the copy may be write-protected
    with open(path, "wb") as file:
        file.write(
            msgspec.json.format(msgspec.json.encode(entries | {"display_name": display_name}))
        )


def _has_kernel_json(folder: str) -> bool:
    """Return whether there is a kernel.json; True if unknown, so that reading raises."""
    try:
        return stat.S_ISREG(os.stat(_kernel_json(folder)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
