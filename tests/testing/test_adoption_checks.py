from __future__ import annotations

from collections.abc import Callable

import pytest

from kernelproto.exceptions import DiscoveryError, KernelInUse
from kernelproto.interfaces import KernelHandle
from kernelproto.testing import FakeKernel, FakeManager, check_adoption
from kernelproto.wire.connection import ConnectionInfo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

INFO = ConnectionInfo(shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5)


class Manager(FakeManager):
    """A manager of a kernel that other programs can adopt."""

    def __init__(self, host: Host) -> None:
        super().__init__(FakeKernel())
        self.host = host

    def handle(self) -> KernelHandle | None:
        return KernelHandle(host="fake", kernel_type="fake/a", kernel_id="one", place={"x": 1})

    async def detach(self) -> None:
        self.host.owner = None

    async def cleanup(self) -> None:
        if self.host.owner is self:
            await super().cleanup()
            self.host.is_over = True


class Host:
    """Adopts the kernel that it has launched last."""

    def __init__(self) -> None:
        self.owner: Manager | None = None
        self.is_over = False

    async def launch(self) -> tuple[ConnectionInfo, Manager]:
        self.is_over = False
        self.owner = Manager(self)
        return INFO, self.owner

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, Manager]:
        if self.is_over:
            raise DiscoveryError("the kernel has ended")
        if self.owner is not None:
            raise KernelInUse("the kernel has an owner")
        self.owner = Manager(self)
        return INFO, self.owner


class Shares(Host):
    """Gives a kernel to everyone."""

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, Manager]:
        self.owner = None
        return await super().adopt(handle)


class AlwaysInUse(Host):
    """Says of an ended kernel that it is in use."""

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, Manager]:
        if self.is_over:
            raise KernelInUse("the kernel has an owner")
        return await super().adopt(handle)


class OtherConnection(Host):
    """Returns another connection."""

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, Manager]:
        _, manager = await super().adopt(handle)
        return ConnectionInfo(
            shell_port=9, iopub_port=2, stdin_port=3, control_port=4, hb_port=5
        ), manager


class NoHandle(Host):
    """Launches kernels without a handle."""

    async def launch(self) -> tuple[ConnectionInfo, Manager]:
        launched = await super().launch()
        launched[1].handle = lambda: None
        return launched


async def test_right_host() -> None:
    host = Host()
    await check_adoption(host, host.launch)


@pytest.mark.parametrize(
    ("kind", "requirement"),
    [
        (Shares, "refuses a kernel with an owner"),
        (AlwaysInUse, "refuses a kernel that has ended"),
        (OtherConnection, "returns the connection of the kernel"),
        (NoHandle, r"handle\(\) returns a KernelHandle"),
    ],
)
async def test_wrong_host(kind: Callable[[], Host], requirement: str) -> None:
    host = kind()
    with pytest.raises(AssertionError, match=requirement):
        await check_adoption(host, host.launch)
