"""Registration: a kernel chooses ports and sends them to the launcher.

The launcher gives the kernel a registration file in place of a connection file. The kernel binds,
connects to the address in the file and sends
``[identity..., b"<IDS|MSG>", signature, content]``, where the content is JSON with the ports. The
acknowledgement has the same shape. The signature covers the content alone.

Specification: "Kernel startup handshake", "Registration file format"; new in 5.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any

import msgspec

from kernelproto.exceptions import (
    InvalidSignature,
    LocalProtocolError,
    MalformedMessage,
    RemoteProtocolError,
)
from kernelproto.wire.codec import DELIMITER
from kernelproto.wire.connection import ConnectionInfo
from kernelproto.wire.message import Frame

_FIRST_VERSION = (5, 6)
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")

# The specification leaves the text to the implementation; only the signature matters.
_ACKNOWLEDGEMENT = b'{"status": "ok"}'


class _Ports(msgspec.Struct):
    """The content of a registration; the specification has strings for the ports, or numbers."""

    kernel_id: str
    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int


class Registration:
    """One kernel's registration, from the registration file to the acknowledgement.

    Args:
        kernel_id: identifies the kernel.
        ip: the IPv4 address that the kernel binds.
        key: signs the registration and all later messages.
        kernel_name: the kernel type, for display.
        curve_publickey: with *curve_secretkey*, lets the kernel encrypt the channels. The
            registration is signed, not encrypted.
        curve_secretkey: the secret half.

    Attributes:
        kernel_id: the same.

    Raises:
        LocalProtocolError: the key is empty.
    """

    def __init__(
        self,
        kernel_id: str,
        *,
        ip: str,
        key: str,
        kernel_name: str = "",
        curve_publickey: str = "",
        curve_secretkey: str = "",
    ) -> None:
        if not key:
            raise LocalProtocolError(
                "a registration needs a key: without one, any program could register"
            )
        self.kernel_id = kernel_id
        # The connection file, with placeholders for the ports.
        self._template = ConnectionInfo(
            ip=ip,
            shell_port=1,
            iopub_port=1,
            stdin_port=1,
            control_port=1,
            hb_port=1,
            key=key,
            kernel_name=kernel_name,
            curve_publickey=curve_publickey,
            curve_secretkey=curve_secretkey,
        )
        self._signer = self._template.signer()

    def file(self, *, ip: str, port: int) -> bytes:
        """Return the text of the registration file, which contains the keys.

        Args:
            ip: the address at which the launcher listens for the registration.
            port: the port of that address.
        """
        info = self._template
        fields: dict[str, Any] = {
            "kernel_id": self.kernel_id,
            "transport": info.transport,
            "registration_ip": ip,
            # xeus needs two things beyond the specification: the port as a string, and the address
            # to bind.
            "registration_port": str(port),
            "ip": info.ip,
            "signature_scheme": info.signature_scheme,
            "key": info.key,
            "kernel_name": info.kernel_name,
        }
        if info.encrypted:
            fields["curve_publickey"] = info.curve_publickey
            fields["curve_secretkey"] = info.curve_secretkey
        return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"

    def receive(self, frames: Sequence[Frame]) -> tuple[ConnectionInfo, list[Frame]]:
        """Read a message that has arrived at the registration port.

        Returns:
            The kernel's addresses, and the frames of the acknowledgement.

        Raises:
            MalformedMessage: the frames are not a registration.
            InvalidSignature: the sender does not have the key.
            RemoteProtocolError: another kernel's registration, or invalid ports.
        """
        if DELIMITER not in frames:
            raise MalformedMessage(f"no {DELIMITER.decode()} delimiter in a registration")
        start = frames.index(DELIMITER)
        identities, parts = frames[:start], frames[start + 1 :]
        if len(parts) != 2:
            raise MalformedMessage(f"a registration of {len(parts)} frames, not of 2")
        signature, content = parts
        if not compare_digest(self._signer.sign([content]), signature):
            raise InvalidSignature("the signature of a registration does not match")
        answer = [
            *identities,
            DELIMITER,
            self._signer.sign([_ACKNOWLEDGEMENT]),
            _ACKNOWLEDGEMENT,
        ]
        return self._connection_info(content), answer

    def _connection_info(self, content: Frame) -> ConnectionInfo:
        try:
            ports = msgspec.json.decode(content, type=_Ports, strict=False)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise MalformedMessage(f"not a registration: {error}") from None
        if ports.kernel_id != self.kernel_id:
            raise RemoteProtocolError(
                f"the registration of kernel {ports.kernel_id!r}, not of {self.kernel_id!r}"
            )
        fields = msgspec.structs.asdict(ports)
        del fields["kernel_id"]
        try:
            return msgspec.structs.replace(self._template, **fields)
        except LocalProtocolError as error:
            raise RemoteProtocolError(str(error)) from None


def registers(kernel_protocol_version: str) -> bool:
    """Return whether a kernel of this version of the specification registers ports.

    Args:
        kernel_protocol_version: the kernelspec's entry, for example ``"5.6"``. Kernels without an
            entry, or with one of another form, do not register.
    """
    version = _VERSION.match(kernel_protocol_version)
    return version is not None and (int(version[1]), int(version[2])) >= _FIRST_VERSION
