"""ConnectionInfo: a kernel's addresses, and the keys that sign and encrypt messages.

Specification: "Connection files". ``launch/address/connection_file.py`` reads and writes the file.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from kernelproto.exceptions import LocalProtocolError, RemoteProtocolError
from kernelproto.wire.signing import Signer

ChannelName = Literal["shell", "iopub", "stdin", "control", "hb"]
CHANNEL_NAMES: tuple[ChannelName, ...] = get_args(ChannelName)

_HIGHEST_PORT = 65535

# Each of these is enough to read or write the kernel's messages. Kernels accept every client that
# has the public key, so that key is secret as well.
_SECRETS = frozenset({"key", "curve_publickey", "curve_secretkey"})
_OPTIONAL_TEXTS = ("kernel_name", "curve_publickey", "curve_secretkey")
_CURVE_KEYS = ("curve_publickey", "curve_secretkey")

# RFC 32: five characters of this alphabet are four bytes.
_Z85_ALPHABET = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_CURVE_KEY_CHARACTERS = 40


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a connection file.

    Args:
        transport: ``"tcp"`` or ``"ipc"``.
        ip: the address to connect to; with ``ipc`` the common beginning of the five socket paths.
        shell_port: a tcp port, or with ``ipc`` the number that ends the socket's path.
        iopub_port: the same.
        stdin_port: the same.
        control_port: the same.
        hb_port: the same.
        key: the shared secret that signs every message; empty means unsigned.
        signature_scheme: ``"hmac-"`` and the name of a hash.
        kernel_name: the kernel type, for display.
        curve_publickey: the kernel's public CurveZMQ key, 40 characters of Z85; empty means
            unencrypted. A client needs only this key to connect.
        curve_secretkey: the secret half, which the kernel needs.

    Neither ``repr`` nor any exception contains a key; ``to_json`` does.

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
    curve_publickey: str = ""
    curve_secretkey: str = ""

    def __post_init__(self) -> None:
        if not self.ip:
            raise LocalProtocolError("ConnectionInfo.ip is empty: give the kernel's address")
        for channel in CHANNEL_NAMES:
            port = self.port(channel)
            if not 0 < port <= _HIGHEST_PORT:
                raise LocalProtocolError(
                    f"ConnectionInfo.{channel}_port is {port}, not between 1 and {_HIGHEST_PORT}"
                )
        for name in _CURVE_KEYS:
            # Not a local variable: some tools show the variables of a traceback.
            if getattr(self, name) and not _is_curve_key(getattr(self, name)):
                raise LocalProtocolError(
                    f"ConnectionInfo.{name} is not a CurveZMQ key, which has "
                    f"{_CURVE_KEY_CHARACTERS} characters of Z85"
                )
        if self.curve_secretkey and not self.curve_publickey:
            raise LocalProtocolError("ConnectionInfo has a curve_secretkey and no curve_publickey")

    @classmethod
    def from_json(cls, data: bytes | str) -> ConnectionInfo:
        """Read the text of a connection file.

        Unknown entries are ignored, because other programs store their own data there. A byte order
        mark is ignored, and so is null for an optional text.

        Raises:
            RemoteProtocolError: the text is not a connection file; the message names the entry.
        """
        values: dict[str, Any] = {}
        try:
            values = msgspec.json.decode(_without_mark(data), type=dict[str, Any])
            for name in _OPTIONAL_TEXTS:
                if values.get(name, "") is None:
                    del values[name]
            info = msgspec.convert(values, type=cls)
            info.signer()
        except LocalProtocolError as error:
            raise RemoteProtocolError(str(error)) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RemoteProtocolError(f"not a connection file: {error}") from None
        finally:
            del data, values  # a traceback must not show their keys
        return info

    def to_json(self) -> bytes:
        """Return the text of the connection file, indented. The text contains the keys."""
        fields = msgspec.structs.asdict(self)
        for name in _CURVE_KEYS:
            if not fields[name]:
                del fields[name]  # a kernel turns encryption on if the entry exists
        return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"

    @property
    def encrypted(self) -> bool:
        """Whether the kernel accepts only encrypted connections (CurveZMQ)."""
        return bool(self.curve_publickey)

    def port(self, channel: ChannelName) -> int:
        """Return the port number of *channel*."""
        number: int = getattr(self, f"{channel}_port")
        return number

    def endpoint(self, channel: ChannelName) -> str:
        """Return the zmq endpoint of *channel*: ``tcp://ip:port`` or ``ipc://ip-port``."""
        if self.transport == "ipc":
            return f"ipc://{self.ip}-{self.port(channel)}"
        # jupyter_client adds no brackets, so files written for it may have them already.
        ip = f"[{self.ip}]" if ":" in self.ip and not self.ip.startswith("[") else self.ip
        return f"tcp://{ip}:{self.port(channel)}"

    def signer(self) -> Signer:
        """Return the signer for the key and scheme; an empty key turns signing off.

        Raises:
            LocalProtocolError: the scheme is unknown, or the key cannot be encoded as UTF-8.
        """
        if not self.key:
            return Signer.disabled()
        try:
            return Signer(self.key.encode(), self.signature_scheme)
        except UnicodeEncodeError:  # the error would contain the key
            raise LocalProtocolError("ConnectionInfo.key holds a lone surrogate") from None

    def __repr__(self) -> str:
        # Connection infos end up in logs and tracebacks; the keys must not.
        endpoints = f"{self.transport}://{self.ip}"
        ports = ", ".join(f"{channel}={self.port(channel)}" for channel in CHANNEL_NAMES)
        encrypted = " encrypted" if self.encrypted else ""
        return f"<ConnectionInfo {endpoints} {ports} kernel_name={self.kernel_name!r}{encrypted}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # For the pretty printer rich: msgspec's version would contain the keys.
        return [field for field in super().__rich_repr__() if field[0] not in _SECRETS]


def _without_mark(data: bytes | str) -> bytes | str:
    """Return a text without the byte order mark that some editors write."""
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    return bytes(data).removeprefix(b"\xef\xbb\xbf")


def _is_curve_key(text: str) -> bool:
    """Return whether *text* is 32 bytes in Z85, as a CurveZMQ key is."""
    if len(text) != _CURVE_KEY_CHARACTERS or not set(text) <= set(_Z85_ALPHABET):
        return False
    # Five characters can exceed the range of four bytes; libzmq then refuses the key.
    numbers = [_Z85_ALPHABET.index(character) for character in text]
    quintets = [numbers[start : start + 5] for start in range(0, len(numbers), 5)]
    return all(sum(n * 85**i for i, n in enumerate(reversed(q))) < 2**32 for q in quintets)
