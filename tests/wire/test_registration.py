from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import (
    InvalidSignature,
    LocalProtocolError,
    MalformedMessage,
    RemoteProtocolError,
)
from kernelproto.wire.codec import DELIMITER
from kernelproto.wire.connection import ConnectionInfo
from kernelproto.wire.registration import Registration, registers

KEY = "a0436f6c-1916-498b-8eb9-e81ab9368e84"
PUBLIC = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
SECRET = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 65535}

# As xeus 6.0.5 sends it.
CONTENT = (
    b'{"control_port":"53288","hb_port":"58494","iopub_port":"53198","kernel_id":"one",'
    b'"shell_port":"65224","stdin_port":"63893"}'
)


def registration(**options: Any) -> Registration:
    return Registration("one", **{"ip": "127.0.0.1", "key": KEY} | options)


def sign(content: bytes, key: str = KEY) -> bytes:
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest().encode()


def message(content: bytes = CONTENT, key: str = KEY) -> list[bytes]:
    return [b"kernel", DELIMITER, sign(content, key), content]


def content(**fields: object) -> bytes:
    return json.dumps({"kernel_id": "one", **PORTS, **fields}).encode()


def test_file() -> None:
    text = registration(ip="10.0.0.7", kernel_name="spec/x").file(ip="127.0.0.1", port=51587)
    assert json.loads(text) == {
        "kernel_id": "one",
        "transport": "tcp",
        "ip": "10.0.0.7",
        "registration_ip": "127.0.0.1",
        "registration_port": "51587",
        "signature_scheme": "hmac-sha256",
        "key": KEY,
        "kernel_name": "spec/x",
    }
    assert text.startswith(b'{\n  "kernel_id": "one",\n')
    assert text.endswith(b"\n}\n")


def test_file_with_keys_for_encryption() -> None:
    encrypted = registration(curve_publickey=PUBLIC, curve_secretkey=SECRET)
    fields = json.loads(encrypted.file(ip="127.0.0.1", port=1))
    assert (fields["curve_publickey"], fields["curve_secretkey"]) == (PUBLIC, SECRET)
    assert encrypted.receive(message())[0].encrypted


def test_kernel_registers() -> None:
    info, answer = registration(ip="10.0.0.7", kernel_name="spec/x").receive(message())
    assert info == ConnectionInfo(
        ip="10.0.0.7",
        shell_port=65224,
        iopub_port=53198,
        stdin_port=63893,
        control_port=53288,
        hb_port=58494,
        key=KEY,
        kernel_name="spec/x",
    )
    identity, delimiter, signature, acknowledgement = answer
    assert (identity, delimiter) == (b"kernel", DELIMITER)
    assert signature == sign(acknowledgement)
    assert json.loads(acknowledgement) == {"status": "ok"}


def test_answer_goes_back_by_all_identities() -> None:
    _, answer = registration().receive([b"proxy", *message()])
    assert answer[:3] == [b"proxy", b"kernel", DELIMITER]


def test_ports_may_be_numbers() -> None:
    info, _ = registration().receive(message(content(more="fields")))
    assert info == ConnectionInfo(key=KEY, **PORTS)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"kernel"], id="no delimiter"),
        pytest.param([b"kernel", DELIMITER], id="delimiter only"),
        pytest.param(message()[:-1], id="no content"),
        pytest.param([*message(), b""], id="one more"),
        pytest.param([b"kernel", DELIMITER, b"", b"{}", b"{}", b"{}", b"{}"], id="a message"),
        pytest.param(message(b""), id="empty"),
        pytest.param(message(b"{"), id="cut short"),
        pytest.param(message(b"\xff"), id="not UTF-8"),
        pytest.param(message(b"[" * 100_000), id="deep"),
        pytest.param(message(b"[]"), id="array"),
        pytest.param(message(content(shell_port=None)), id="null"),
        pytest.param(message(content(shell_port="http")), id="no number"),
        pytest.param(message(content(shell_port=1.5)), id="fraction"),
        pytest.param(message(json.dumps(PORTS).encode()), id="no kernel id"),
        pytest.param(message(b'{"kernel_id": "one"}'), id="no ports"),
    ],
)
def test_invalid_registration(frames) -> None:
    with pytest.raises(MalformedMessage, match="registration"):
        registration().receive(frames)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(message(key="another"), id="another key"),
        pytest.param([b"", DELIMITER, b"", CONTENT], id="unsigned"),
        pytest.param([b"", DELIMITER, sign(CONTENT), CONTENT + b" "], id="changed"),
        pytest.param([b"", DELIMITER, sign(CONTENT).upper(), CONTENT], id="upper case"),
        pytest.param([b"", DELIMITER, "é".encode(), CONTENT], id="not ASCII"),
    ],
)
def test_wrong_signature(frames) -> None:
    with pytest.raises(InvalidSignature) as caught:
        registration().receive(frames)
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kernel_id": "two"}, "kernel 'two', not of 'one'"),
        ({"hb_port": 0}, "hb_port is 0"),
        ({"hb_port": "65536"}, "hb_port is 65536"),
        ({"hb_port": -1}, "hb_port is -1"),
    ],
)
def test_signed_and_still_impossible(fields, words) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        registration().receive(message(content(**fields)))


def test_refused_messages_change_nothing() -> None:
    one = registration()
    for frames in (message(key="another"), message(content(kernel_id="two")), [b""]):
        with pytest.raises(RemoteProtocolError):
            one.receive(frames)
    assert one.receive(message()) == registration().receive(message())


def test_registration_without_a_key_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="needs a key"):
        registration(key="")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("5.6", True),
        ("5.6.1", True),
        ("5.10", True),
        ("6.0", True),
        ("10.0", True),
        ("5.5", False),
        ("5.5.9", False),
        ("4.9", False),
        ("", False),
        ("5", False),
        ("six", False),
        ("5.x", False),
        (" 5.6", False),
        ("5.66666", False),
        ("9" * 5000 + ".0", False),
    ],
)
def test_which_versions_register(version, expected) -> None:
    assert registers(version) is expected


@given(st.lists(st.binary(max_size=50) | st.sampled_from([DELIMITER, CONTENT, sign(CONTENT)])))
def test_arbitrary_frames_are_refused_or_right(frames) -> None:
    try:
        info, _ = registration().receive(frames)
    except RemoteProtocolError:
        return
    assert info == registration().receive(message())[0]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_arbitrary_signed_content_is_refused(content) -> None:
    with pytest.raises(RemoteProtocolError):
        registration().receive(message(content))
