"""The state folder of a server: the registry of kernels and sessions, and a lock."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext

from jupyter_core.paths import jupyter_data_dir

from kernelproto import extras
from kernelproto.exceptions import InvalidSettings
from kernelproto.launch.own_files import folder_fault
from kernelproto.registry import Registry, SQLiteRegistry
from kernelproto.server.settings import Settings

logger = logging.getLogger(__name__)

# Set by systemd for a unit with StateDirectory=: the absolute paths, separated by colons.
_SYSTEMD_VARIABLE = "STATE_DIRECTORY"

# The folder of a service may also have the notebooks of users.
_IN_SERVICE = ".kernelproto"

_REGISTRY = "kernels.sqlite"
_LOCK = "server.lock"


def find_state_folder(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the state folder of a server; None if the kernels end with the server.

    Args:
        settings: ``keep_kernels``, ``state_dir``, ``registry``, ``linger_seconds``, and the
            settings that exclude them.
        environ: the environment of the server.

    Raises:
        InvalidSettings: kernels cannot outlive the server with these settings or on this system.
    """
    folder = _find_state_folder(settings, environ)
    if folder is None and settings.linger_seconds:
        raise InvalidSettings(
            "linger_seconds: kernels end with the server: set state_dir or keep_kernels = on, or "
            "remove linger_seconds"
        )
    return folder


def _find_state_folder(settings: Settings, environ: Mapping[str, str]) -> str | None:
    given = settings.state_dir
    is_wanted = bool(given or settings.registry)
    of_service = environ.get(_SYSTEMD_VARIABLE, "").partition(":")[0]
    if settings.keep_kernels == "off":
        return None
    if settings.keep_kernels == "auto" and not (is_wanted or of_service):
        return None
    fault = _fault(settings)
    if fault is not None:
        if settings.keep_kernels == "on" or is_wanted:
            raise InvalidSettings(f"keep_kernels: {fault}")
        logger.info("kernels end with the server (keep_kernels = auto): %s", fault)
        return None
    if given:
        return os.path.abspath(given)
    if of_service:
        return os.path.join(of_service, _IN_SERVICE)
    return os.path.join(jupyter_data_dir(), "kernelproto", "server")


@asynccontextmanager
async def open_state_folder(
    path: str, url: str | None = None, node: str | None = None
) -> AsyncGenerator[Registry]:
    """Lock a state folder, and open a registry, which no other server can use during the block.

    With *node*, other servers with other names use the registry as well, and there is no folder.

    Args:
        path: the absolute path of the folder; a missing folder is made.
        url: the registry; None for a file in the folder.
        node: the name of this server among those that share the registry; None if it is alone.

    Raises:
        InvalidSettings: the folder cannot be used, or another server uses the folder.
        RegistryError: the registry cannot be opened, and is unchanged.
    """
    with nullcontext() if node is not None else _locked(path):
        async with _registry(path, url, node) as registry:
            yield registry


def _registry(
    path: str, url: str | None, node: str | None
) -> AbstractAsyncContextManager[Registry]:
    if url is None:
        return SQLiteRegistry(os.path.join(path, _REGISTRY))
    fault = extras.fault("postgresql")
    if fault is not None:
        raise InvalidSettings(f"registry: {fault}")
    from kernelproto.registry.postgresql import PostgreSQLRegistry  # an extra

    try:
        return PostgreSQLRegistry(url, exclusive=node is None, node=node)
    except ValueError as error:
        raise InvalidSettings(f"registry: {error}") from error


def _fault(settings: Settings) -> str | None:
    """Return why kernels cannot outlive a server; None if they can."""
    if sys.platform != "linux":
        return "kernels can outlive the server on Linux only: set keep_kernels = off"
    if settings.warm or any(table.warm for table in settings.limits.kernels.values()):
        return (
            "a kernel that is started ahead of time (warm) has no user, and cannot outlive the "
            "server: remove warm, or set keep_kernels = off"
        )
    return None


@contextmanager
def _locked(path: str) -> Generator[None]:
    """Lock a state folder for the block; the system unlocks the folder of a killed server."""
    import fcntl  # not on Windows

    lock = os.path.join(path, _LOCK)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        fault = folder_fault(path, private=True)
        if fault is not None:
            raise InvalidSettings(f"state_dir: {fault}")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidSettings(
            f"state_dir: cannot write to {path!r}: {error.strerror}: correct its rights, choose "
            "another folder, or set keep_kernels = off"
        ) from error
    with open(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read(20).strip()
            server = f"the server with process id {owner}" if owner else "another server"
            raise InvalidSettings(
                f"state_dir: {server} uses {path!r}: end that server, or choose another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
