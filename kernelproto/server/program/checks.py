"""Checks at the start of the server: refuse settings that would fail later."""

from __future__ import annotations

import os
import ssl
import stat

import msgspec
from anyio import to_thread
from msgspec import UNSET

from kernelproto.exceptions import InvalidSettings, NoSuchKernel
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.confinement import sandbox_fault, users_fault
from kernelproto.launch.process.limits import raise_open_files
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.naming import check_kernel_type
from kernelproto.server.connections import MAX_REFUSED
from kernelproto.server.isolation import Isolation
from kernelproto.server.limits import check_limits
from kernelproto.server.settings import Settings

# Generous estimates: sockets, pipes and files of one kernel, and of the server itself.
_FILES_PER_KERNEL = 20
_OTHER_FILES = 100

# The settings with files that isolated users must not read.
_SECRET_FILES = ("token_file", "keyfile", "audit_file")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


async def check_settings(settings: Settings, finder: KernelFinder) -> None:
    """Check that this machine has everything the settings name.

    Raises:
        InvalidSettings: a kernel type, limit, folder or certificate is missing or unusable, or
            users cannot be isolated.
    """
    await _check_kernel_type(settings.kernel, finder)
    is_isolated = settings.isolate == "users"
    await check_limits(
        settings.limits,
        finder,
        has_groups=settings.users_have_groups,
        isolated=is_isolated,
    )
    if is_isolated:
        await to_thread.run_sync(_check_isolation, settings)
    await to_thread.run_sync(_check_sandboxes, settings)
    _check_directory(settings.root_dir)
    _check_certificate(settings)


def _check_isolation(settings: Settings) -> None:
    sandbox, uids = settings.isolation.sandbox, settings.isolation.range
    for uid in (uids[0], uids[-1]) if uids else (None,):
        reason = users_fault(msgspec.structs.replace(sandbox, uid=uid))
        if reason is not None:
            raise InvalidSettings(f"isolate: this machine cannot isolate users: {reason}")
    Isolation(settings.isolation).check()
    for name in _SECRET_FILES:
        path: str | None = getattr(settings, name)
        if path is not None and os.path.exists(path) and os.stat(path).st_mode & _OTHERS:
            raise InvalidSettings(
                f"{name}: isolated users may read or write {path!r}: run chmod 600 on it"
            )


def _check_sandboxes(settings: Settings) -> None:
    """Check that this machine can make the sandboxes of the tables of limits."""
    base = settings.isolation.sandbox if settings.isolate == "users" else Sandbox()
    for kind, name, limits in settings.limits.tables():
        if limits.sandbox is UNSET:
            continue
        given = {**msgspec.to_builtins(base), **limits.sandbox}
        reason = sandbox_fault(msgspec.convert(given, Sandbox))
        if reason is not None:
            raise InvalidSettings(
                f'limits.{kind}."{name}".sandbox: this machine cannot enforce it: {reason}'
            )


def check_open_files(settings: Settings) -> None:
    """Raise the process's limit of open files, and check that all connections and kernels fit.

    Raises:
        InvalidSettings: they do not.
    """
    allowed = raise_open_files()
    connections = settings.max_connections + MAX_REFUSED
    needed = connections + settings.max_kernels * _FILES_PER_KERNEL + _OTHER_FILES
    if allowed is not None and needed > allowed:
        raise InvalidSettings(
            f"max_connections: {settings.max_connections} connections and {settings.max_kernels} "
            f"kernels may need {needed} open files, and this process may have {allowed}: raise its "
            "hard limit (LimitNOFILE= of systemd, ulimit -Hn), or lower max_connections or "
            "max_kernels"
        )


async def _check_kernel_type(name: str, finder: KernelFinder) -> None:
    available = {kernel_type: about async for kernel_type, about in finder.find_kernels()}
    try:
        found = check_kernel_type(name, available, remedy="install it, or name another one")
    except NoSuchKernel as error:
        raise InvalidSettings(f"kernel: {error}") from None
    reason = available[found].get("unavailable")
    if reason is not None:
        raise InvalidSettings(f"kernel: {reason}")


def _check_directory(root_dir: str) -> None:
    if not os.path.isdir(root_dir):
        raise InvalidSettings(f"root_dir: {root_dir!r} is not a directory")


def _check_certificate(settings: Settings) -> None:
    if settings.certfile is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile, password="")
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"certfile, keyfile: cannot load the certificate: {error.strerror or error}"
        ) from error
