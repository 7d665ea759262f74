"""ConnectionInfo: where a kernel's channels are and which key signs its messages.

Specification: "Connection files". Reading and writing the file itself is the business of
``launch/connection_file.py``.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from kernelproto.exceptions import LocalProtocolError, RemoteProtocolError
from kernelproto.wire.signing import Signer

ChannelName = Literal["shell", "iopub", "stdin", "control", "hb"]
CHANNEL_NAMES: tuple[ChannelName, ...] = get_args(ChannelName)

_HIGHEST_PORT = 65535


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a connection file.

    Args:
        transport: ``"tcp"`` or ``"ipc"``.
        ip: the address to connect to; with ``ipc`` the common beginning of the five socket paths.
        shell_port, iopub_port, stdin_port, control_port, hb_port: tcp ports, or with ``ipc`` the
            numbers that end the socket paths.
        key: the shared secret that signs every message; empty means unsigned.
        signature_scheme: ``"hmac-"`` and the name of a hash.
        kernel_name: the kernel type, for people.

    Raises:
        LocalProtocolError: a value is out of range.
    """

    transport: Literal["tcp", "ipc"] = "tcp"
    ip: str = "127.0.0.1"
    shell_port: int = 0
    iopub_port: int = 0
    stdin_port: int = 0
    control_port: int = 0
    hb_port: int = 0
    key: str = ""
    signature_scheme: str = "hmac-sha256"
    kernel_name: str = ""

    def __post_init__(self) -> None:
        if not self.ip:
            raise LocalProtocolError("ConnectionInfo.ip is empty: give the kernel's address")
        for channel in CHANNEL_NAMES:
            port = self.port(channel)
            if not 0 < port <= _HIGHEST_PORT:
                raise LocalProtocolError(
                    f"ConnectionInfo.{channel}_port is {port}, not between 1 and {_HIGHEST_PORT}"
                )

    @classmethod
    def from_json(cls, data: bytes | str) -> ConnectionInfo:
        """Read the text of a connection file.

        Unknown keys are ignored: other programs keep notes of their own there.

        Raises:
            RemoteProtocolError: the text is no connection file; the message names the key.
        """
        try:
            info = msgspec.json.decode(data, type=cls)
            info.signer()
        except LocalProtocolError as error:
            raise RemoteProtocolError(str(error)) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RemoteProtocolError(f"not a connection file: {error}") from None
        return info

    def to_json(self) -> bytes:
        """Return the text of the connection file, indented for people. It contains the key."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def port(self, channel: ChannelName) -> int:
        """Return the port number of *channel*."""
        number: int = getattr(self, f"{channel}_port")
        return number

    def endpoint(self, channel: ChannelName) -> str:
        """Return the zmq endpoint of *channel*: ``tcp://ip:port`` or ``ipc://ip-port``."""
        if self.transport == "ipc":
            return f"ipc://{self.ip}-{self.port(channel)}"
        # jupyter_client adds no brackets, so files made for it may have them already.
        ip = f"[{self.ip}]" if ":" in self.ip and not self.ip.startswith("[") else self.ip
        return f"tcp://{ip}:{self.port(channel)}"

    def signer(self) -> Signer:
        """Return the signer that the key and scheme ask for; an empty key turns signing off.

        Raises:
            LocalProtocolError: the scheme is unknown.
        """
        if not self.key:
            return Signer.disabled()
        return Signer(self.key.encode(), self.signature_scheme)

    def __repr__(self) -> str:
        # Connection infos end up in logs and tracebacks; the key must not.
        endpoints = f"{self.transport}://{self.ip}"
        ports = ", ".join(f"{channel}={self.port(channel)}" for channel in CHANNEL_NAMES)
        return f"<ConnectionInfo {endpoints} {ports} kernel_name={self.kernel_name!r}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # The pretty printer rich asks for it, and msgspec would tell it the key.
        return [field for field in super().__rich_repr__() if field[0] != "key"]
