"""CurveZMQ: pairs of keys, and the client's end of an encrypted connection.

Kernels accept every client that knows their public key. The client's own keys encrypt and do not
authenticate. So the public key is a secret, like the key that signs messages.
"""

from __future__ import annotations

from typing import NamedTuple

import zmq

from kernelproto.exceptions import LocalProtocolError
from kernelproto.transport.raw import RawSocket


class CurveKeys(NamedTuple):
    """A pair of keys, each of 40 characters of Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return "<CurveKeys>"


def has_curve() -> bool:
    """Return whether this pyzmq supports encryption; the wheels on PyPI do."""
    return zmq.has("curve")


def new_curve_keys() -> CurveKeys:
    """Return a fresh pair of keys.

    Raises:
        LocalProtocolError: this pyzmq does not support encryption.
    """
    if not has_curve():
        raise LocalProtocolError(
            "this pyzmq was built without CurveZMQ: install the wheel from PyPI to connect to "
            "encrypted kernels"
        )
    public, secret = zmq.curve_keypair()
    return CurveKeys(public.decode(), secret.decode())


def encrypt(raw: RawSocket, keys: CurveKeys, *, kernel_publickey: str) -> None:
    """Restrict a socket to the kernel that has the secret half of *kernel_publickey*.

    Args:
        raw: a socket that is not connected yet.
        keys: the client's own keys.
        kernel_publickey: the key in the connection file.
    """
    raw.set(zmq.CURVE_SERVERKEY, kernel_publickey.encode())
    raw.set(zmq.CURVE_PUBLICKEY, keys.public.encode())
    raw.set(zmq.CURVE_SECRETKEY, keys.secret.encode())
