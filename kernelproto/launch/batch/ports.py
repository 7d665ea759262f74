"""The ports of a kernel in a batch job, which the kernel chooses."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.launch.batch.folder import JobFolder
from kernelproto.launch.batch.manager import JobManager
from kernelproto.launch.batch.settings import BatchKernel
from kernelproto.launch.failures import exited_early, not_ready
from kernelproto.transport.curve import new_curve_keys
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

# The launch gives up this long before the caller's deadline, so that the error has the reason.
MARGIN_SECONDS = 0.1

_KEY_BYTES = 32

# The interval for reading the connection file of a started kernel until the file has ports.
_FILE_SECONDS = 0.1

_NO_PORTS = (
    "if it only needs more time, raise start_seconds of the kernel type; if it does not write its "
    "ports into its connection file, it cannot run as a batch job"
)


class NewConnection:
    """The connection of a kernel that chooses the ports; ``repr`` does not show the keys.

    Args:
        kernel: the kernel type.
        encrypted: whether the kernel gets CurveZMQ keys.
    """

    def __init__(self, kernel: BatchKernel, *, encrypted: bool) -> None:
        self._values: dict[str, object] = {
            "transport": "tcp",
            "ip": kernel.bind,
            "key": secrets.token_hex(_KEY_BYTES),
            "signature_scheme": "hmac-sha256",
            **{f"{name}_port": 0 for name in CHANNEL_NAMES},
        }
        if encrypted:
            keys = new_curve_keys()
            self._values |= {"curve_publickey": keys.public, "curve_secretkey": keys.secret}

    def kernel_file(self) -> bytes:
        """Return the connection file for the kernel, which replaces the ports there."""
        return msgspec.json.encode(self._values)

    def info(self, ports: Mapping[str, int], address: str, kernel_type: str) -> ConnectionInfo:
        """Return how programs connect, once the kernel has chosen the ports."""
        # Only the kernel needs the secret half of the keys.
        changed = {"ip": address, "kernel_name": kernel_type, "curve_secretkey": ""}
        return msgspec.convert({**self._values, **ports, **changed}, ConnectionInfo)


async def wait_for_ports(
    kernel: BatchKernel,
    folder: JobFolder,
    manager: JobManager,
    connection: NewConnection,
    address: str,
) -> ConnectionInfo:
    """Wait until the kernel has chosen the ports; return how programs connect.

    Raises:
        KernelExitedEarly: the job has ended.
        KernelNotReady: the kernel has not chosen them in time.
    """

    async def fail_at_the_end() -> None:
        raise exited_early(manager, await manager.wait())

    deadline = anyio.current_effective_deadline() - MARGIN_SECONDS
    with anyio.CancelScope(deadline=min(anyio.current_time() + kernel.start_seconds, deadline)):
        async with background_tasks() as tasks:
            tasks.start_soon(fail_at_the_end)
            # No event reports a change of a file on a network file system.
            while (ports := await anyio.to_thread.run_sync(folder.ports)) is None:  # noqa: ASYNC110
                await anyio.sleep(_FILE_SECONDS)
            info = connection.info(ports, address, folder.record.kernel_type)
            await anyio.to_thread.run_sync(folder.write_info, info)
            return info
    raise not_ready(manager, "ports", kernel.start_seconds, remedy=_NO_PORTS)
