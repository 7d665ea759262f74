"""CurveZMQ: pairs of keys, and the client's end of an encrypted connection.

Whoever knows the kernel's public key is let in: the pair that a client brings encrypts, and proves
nothing. So that key is treated as a secret, as the one that signs messages is.
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
    """Return whether this pyzmq can encrypt; the wheels on PyPI can."""
    return zmq.has("curve")


def new_curve_keys() -> CurveKeys:
    """Return a fresh pair of keys.

    Raises:
        LocalProtocolError: this pyzmq cannot encrypt.
    """
    if not has_curve():
        raise LocalProtocolError(
            "this pyzmq was built without CurveZMQ: install the one from PyPI to talk to kernels "
            "that encrypt"
        )
    public, secret = zmq.curve_keypair()
    return CurveKeys(public.decode(), secret.decode())


def encrypt(raw: RawSocket, keys: CurveKeys, *, kernel_publickey: str) -> None:
    """Let *raw* talk only to the kernel that has the other half of *kernel_publickey*.

    Args:
        raw: a socket that is not connected yet.
        keys: the client's own pair.
        kernel_publickey: as the connection file says.
    """
    raw.set(zmq.CURVE_SERVERKEY, kernel_publickey.encode())
    raw.set(zmq.CURVE_PUBLICKEY, keys.public.encode())
    raw.set(zmq.CURVE_SECRETKEY, keys.secret.encode())
