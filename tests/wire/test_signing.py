from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import LocalProtocolError, ReplayedMessage
from kernelproto.wire.signing import ReplayWindow, Signer

# The last one is where joining the frames gives way to hashing them one by one.
SIZES = [0, 1, 16_383, 16_384, 100_000]

KEYS = {
    "short": b"k",
    "uuid": b"a0436f6c-1916-498b-8eb9-e81ab9368e84",
    "one block": b"k" * 64,
    "more than a block": b"k" * 65,
    "more than any block": b"k" * 1000,
    "zeros": bytes(3),
}


def stdlib_signature(key: bytes, frames: list[bytes], hash_name: str) -> bytes:
    return hmac.new(key, b"".join(frames), hash_name).hexdigest().encode()


@pytest.mark.parametrize("hash_name", ["sha256", "sha1", "sha512", "md5", "sha3_256", "blake2b"])
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_signature_is_the_one_of_the_standard_library(key, hash_name) -> None:
    signer = Signer(key, f"hmac-{hash_name}")
    for size in SIZES:
        frames = [b'{"msg_id":"1"}', b"{}", b"{}", b"x" * size]
        expected = stdlib_signature(key, frames, hash_name)
        assert signer.sign(frames) == expected
        assert signer.sign([memoryview(frame) for frame in frames]) == expected


# RFC 2202 and RFC 4231, test cases 1 and 6.
@pytest.mark.parametrize(
    ("scheme", "key", "text", "signature"),
    [
        pytest.param(
            "hmac-sha1",
            b"\x0b" * 20,
            b"Hi There",
            b"b617318655057264e28bc0b6fb378c8ef146be00",
            id="sha1",
        ),
        pytest.param(
            "hmac-sha256",
            b"\x0b" * 20,
            b"Hi There",
            b"b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            id="sha256",
        ),
        pytest.param(
            "hmac-sha256",
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            b"60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            id="sha256 and a long key",
        ),
    ],
)
def test_signature_is_the_published_one(scheme, key, text, signature) -> None:
    assert Signer(key, scheme).sign([text[:1], text[1:3], b"", text[3:]]) == signature


@given(key=st.binary(min_size=1), frames=st.lists(st.binary(), min_size=4, max_size=4))
def test_any_signature_is_the_one_of_the_standard_library(key, frames) -> None:
    assert Signer(key).sign(frames) == stdlib_signature(key, frames, "sha256")


def test_scheme_is_sha256_by_default() -> None:
    frames = [b"{}"] * 4
    assert Signer(b"key").sign(frames) == Signer(b"key", "hmac-sha256").sign(frames)


@pytest.mark.parametrize("hash_name", sorted(hashlib.algorithms_available))
def test_every_hash_either_signs_or_is_unknown(hash_name) -> None:
    try:
        signature = Signer(b"key", f"hmac-{hash_name}").sign([b"{}"] * 4)
    except LocalProtocolError:
        assert hash_name.startswith("shake")
    else:
        assert signature == stdlib_signature(b"key", [b"{}"] * 4, hash_name)


@pytest.mark.parametrize(
    "scheme",
    ["", "sha256", "hmac-", "hmac-sha257", "hmac-SHA256", "hmac_sha256", "HMAC-sha256", "hmac-new"],
)
def test_unknown_scheme(scheme) -> None:
    with pytest.raises(LocalProtocolError, match=f"'{scheme}'.*'hmac-sha256'"):
        Signer(b"key", scheme)


def test_empty_key_is_no_way_to_turn_signing_off() -> None:
    with pytest.raises(LocalProtocolError, match=r"Signer\.disabled"):
        Signer(b"")


def test_disabled_signer_signs_nothing() -> None:
    signer = Signer.disabled()
    assert not signer.enabled
    assert signer.sign([b"{}"] * 4) == b""
    assert Signer(b"key").enabled


def test_window_refuses_a_known_signature() -> None:
    window = ReplayWindow()
    window.record(b"one")
    for _ in range(2):
        with pytest.raises(ReplayedMessage):
            window.record(b"one")
    window.record(b"two")
    assert len(window) == 2


def test_window_forgets_the_oldest_first() -> None:
    window = ReplayWindow(3)
    for signature in (b"1", b"2", b"3", b"4"):
        window.record(signature)
    for signature in (b"2", b"3", b"4"):
        with pytest.raises(ReplayedMessage):
            window.record(signature)
    window.record(b"1")
    with pytest.raises(ReplayedMessage):  # 2 had to go for it: being refused made it no younger
        window.record(b"3")
    window.record(b"2")
    assert len(window) == 3


def test_window_is_bounded() -> None:
    window = ReplayWindow()
    for number in range(65_536 + 100):
        window.record(b"%d" % number)
    assert len(window) == 65_536
    with pytest.raises(ReplayedMessage):
        window.record(b"100")
    window.record(b"99")
