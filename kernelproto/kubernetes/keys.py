"""The certificate that a program and the host in a pod share; it is made for one pod.

Both ends show this certificate, and accept no other one. TLS proves that each of them has its key,
so no authority is needed.
"""

from __future__ import annotations

import datetime
import ssl
from typing import NamedTuple

from kernelproto.extras import importing
from kernelproto.kubernetes.config import load_key_pair

# The clocks of the machines may differ, and no program checks more than the certificate itself.
_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class KeyPair(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: str
    key: str


def new_key_pair(name: str) -> KeyPair:
    """Make a certificate; the call blocks for a few milliseconds.

    Args:
        name: the name in the certificate, at most 64 characters.
    """
    with importing("kubernetes"):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(certificate.public_bytes(encoding).decode(), private.decode())


def client_context(pair: KeyPair) -> ssl.SSLContext:
    """Return the context with which a program connects to the host; the call blocks.

    Raises:
        OSError: the certificate is not valid.
        ValueError: there is none.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False  # the address of a pod is not known before it runs
    tls.load_verify_locations(cadata=pair.certificate)
    load_key_pair(tls, pair.certificate, pair.key)
    return tls
