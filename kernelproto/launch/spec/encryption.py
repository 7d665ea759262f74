"""The rules that decide whether a kernel's channels are encrypted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Literal, cast

from kernelproto.exceptions import InvalidLaunchParameter

Encryption = Literal["disabled", "auto", "required"]

_CURVE = "curve"


def supports_curve(metadata: Mapping[str, Any]) -> bool:
    """Return whether the metadata of a kernelspec says that the kernel supports CurveZMQ.

    The key is ``supported_encryption``: ``["curve"]``, or ``"curve"`` in the first version.
    """
    supported = metadata.get("supported_encryption")
    schemes = [supported] if isinstance(supported, str) else supported
    if not isinstance(schemes, list | tuple):
        return False
    return _CURVE in [str(scheme).strip().lower() for scheme in cast(Sequence[object], schemes)]


def is_encrypted(
    policy: Encryption, *, transport: str, ip: str, kernel_can: bool, we_can: bool
) -> bool:
    """Decide whether a new kernel gets encryption keys.

    ============ ===================== ======== ====================================
    policy       tcp, loopback         ipc      tcp, another interface
    ============ ===================== ======== ====================================
    "disabled"   no                    no       no
    "auto"       if both sides can     no       yes, or InvalidLaunchParameter
    "required"   yes, or InvalidLaunchParameter, everywhere
    ============ ===================================================================

    Args:
        policy: the caller's choice.
        transport: ``"tcp"`` or ``"ipc"``.
        ip: the IPv4 address that the kernel binds; without meaning for ipc.
        kernel_can: whether the kernelspec says that the kernel supports encryption.
        we_can: whether pyzmq supports encryption.

    Raises:
        InvalidLaunchParameter: encryption is required and not possible.
    """
    if policy == "disabled":
        return False
    exposed = transport == "tcp" and not IPv4Address(ip).is_loopback
    if policy == "required" or exposed:
        if not (kernel_can and we_can):
            raise InvalidLaunchParameter(_refusal(policy, ip, kernel_can=kernel_can))
        return True
    return transport == "tcp" and kernel_can and we_can


def _refusal(policy: Encryption, ip: str, *, kernel_can: bool) -> str:
    demand = (
        "encryption='required'"
        if policy == "required"
        else f"a kernel at {ip!r}, which other machines can reach, has to be encrypted"
    )
    obstacle = (
        "this pyzmq was built without CurveZMQ; install the one from PyPI"
        if kernel_can
        else "the kernelspec does not say that this kernel can be encrypted; if it can, add "
        '"supported_encryption": ["curve"] to the kernelspec\'s metadata'
    )
    waiver = ", or pass encryption='disabled' for a kernel without encryption"
    return f"{demand}, but {obstacle}{waiver}"
