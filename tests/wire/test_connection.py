from __future__ import annotations

import json
import pickle
import pprint
import traceback
from typing import Any

import pytest

from kernelproto.exceptions import LocalProtocolError, RemoteProtocolError
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo
from kernelproto.wire.signing import Signer

KEY = "a0436f6c-1916-498b-8eb9-e81ab9368e84"
# Of RFC 26's test vectors, and of RFC 32's.
PUBLIC = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
SECRET = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 65535}

# As jupyter_client 8.10 writes it.
FILE = b"""{
  "shell_port": 53801,
  "iopub_port": 53802,
  "stdin_port": 53803,
  "control_port": 53804,
  "hb_port": 53805,
  "ip": "127.0.0.1",
  "key": "a0436f6c-1916-498b-8eb9-e81ab9368e84",
  "transport": "tcp",
  "signature_scheme": "hmac-sha256",
  "kernel_name": "python3",
  "jupyter_session": "/home/ada/Untitled.ipynb"
}"""


def info(**fields: Any) -> ConnectionInfo:
    return ConnectionInfo(**{**PORTS, **fields})


def file(**fields: object) -> str:
    return json.dumps({**PORTS, **fields})


def test_file_is_read() -> None:
    assert ConnectionInfo.from_json(FILE) == ConnectionInfo(
        transport="tcp",
        ip="127.0.0.1",
        shell_port=53801,
        iopub_port=53802,
        stdin_port=53803,
        control_port=53804,
        hb_port=53805,
        key=KEY,
        signature_scheme="hmac-sha256",
        kernel_name="python3",
    )
    assert ConnectionInfo.from_json(FILE.decode()) == ConnectionInfo.from_json(FILE)


def test_ports_are_enough() -> None:
    read = ConnectionInfo.from_json(file())
    assert read == info()
    assert (read.transport, read.ip, read.key) == ("tcp", "127.0.0.1", "")
    assert (read.signature_scheme, read.kernel_name) == ("hmac-sha256", "")


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_round_trip(transport) -> None:
    original = info(
        transport=transport,
        ip="/run/kernel-é",
        key=KEY,
        signature_scheme="hmac-sha512",
        kernel_name="spec/ir",
        curve_publickey=PUBLIC,
        curve_secretkey=SECRET,
    )
    assert ConnectionInfo.from_json(original.to_json()) == original


def test_file_is_written_for_people() -> None:
    text = info(key="secret").to_json().decode()
    assert text.startswith('{\n  "transport": "tcp",\n')
    assert text.endswith("\n}\n")
    assert json.loads(text) == {
        **PORTS,
        "transport": "tcp",
        "ip": "127.0.0.1",
        "key": "secret",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "",
    }


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        pytest.param({"ip": "10.0.0.7"}, "tcp://10.0.0.7:1", id="IPv4"),
        pytest.param({"ip": "kernels.example"}, "tcp://kernels.example:1", id="host name"),
        pytest.param({"ip": "::1"}, "tcp://[::1]:1", id="IPv6"),
        pytest.param({"ip": "[fe80::1%eth0]"}, "tcp://[fe80::1%eth0]:1", id="IPv6 in brackets"),
        pytest.param({"transport": "ipc", "ip": "/run/k"}, "ipc:///run/k-1", id="ipc"),
        pytest.param({"transport": "ipc", "ip": "k:1"}, "ipc://k:1-1", id="relative ipc path"),
    ],
)
def test_endpoint(fields, endpoint) -> None:
    assert info(**fields).endpoint("shell") == endpoint


def test_every_channel_has_its_port() -> None:
    assert CHANNEL_NAMES == ("shell", "iopub", "stdin", "control", "hb")
    assert [info().port(channel) for channel in CHANNEL_NAMES] == [1, 2, 3, 4, 65535]
    assert [info().endpoint(channel).rpartition(":")[2] for channel in CHANNEL_NAMES] == [
        "1",
        "2",
        "3",
        "4",
        "65535",
    ]


@pytest.mark.parametrize("port", [0, -1, 65536, 2**64])
@pytest.mark.parametrize("name", PORTS)
def test_port_out_of_range(name, port) -> None:
    with pytest.raises(LocalProtocolError, match=f"{name} is {port}"):
        info(**{name: port})
    with pytest.raises(RemoteProtocolError, match=f"{name} is {port}"):
        ConnectionInfo.from_json(file(**{name: port}))


@pytest.mark.parametrize("name", PORTS)
def test_port_is_missing(name) -> None:
    text = json.dumps({key: port for key, port in PORTS.items() if key != name})
    with pytest.raises(RemoteProtocolError, match=name):
        ConnectionInfo.from_json(text)


def test_empty_ip() -> None:
    with pytest.raises(LocalProtocolError, match="ip is empty"):
        info(ip="")
    with pytest.raises(RemoteProtocolError, match="ip is empty"):
        ConnectionInfo.from_json(file(ip=""))


# Connection files hold numbers; only the registration of JEP 66 has its ports as strings.
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shell_port", "53801"),
        ("shell_port", 53801.5),
        ("shell_port", None),
        ("shell_port", True),
        ("transport", "udp"),
        ("transport", None),
        ("ip", 127),
        ("ip", None),
        ("key", None),
        ("key", ["secret"]),
        ("signature_scheme", 256),
        ("kernel_name", {}),
    ],
)
def test_value_of_the_wrong_kind_is_named(name, value) -> None:
    with pytest.raises(RemoteProtocolError, match=rf"not a connection file: .*\$\.{name}"):
        ConnectionInfo.from_json(file(**{name: value}))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("null", id="null"),
        pytest.param("[]", id="array"),
        pytest.param('"tcp"', id="string"),
        pytest.param(FILE[:-1], id="cut short"),
        pytest.param(FILE + b"x", id="with more behind it"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param('{"ip": "\ud800"}', id="lone surrogate"),
        pytest.param('{"vendor": NaN}', id="NaN"),
        pytest.param('{"vendor": ' + "[" * 100_000, id="deep"),
    ],
)
def test_text_that_is_no_connection_file(text) -> None:
    with pytest.raises(RemoteProtocolError, match="not a connection file"):
        ConnectionInfo.from_json(text)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + FILE, "\ufeff" + FILE.decode()])
def test_byte_order_mark(text) -> None:
    assert ConnectionInfo.from_json(text) == ConnectionInfo.from_json(FILE)


@pytest.mark.parametrize("name", ["kernel_name", "curve_publickey", "curve_secretkey"])
def test_null_for_an_optional_text(name) -> None:
    assert ConnectionInfo.from_json(file(**{name: None})) == info()


@pytest.mark.parametrize("name", ["key", "ip", "transport", "signature_scheme", "hb_port"])
def test_null_where_a_value_is_needed(name) -> None:
    with pytest.raises(RemoteProtocolError, match=name):
        ConnectionInfo.from_json(file(**{name: None}))


@pytest.mark.parametrize("public", ["", PUBLIC])
def test_keys_for_encryption(public) -> None:
    original = info(curve_publickey=public)
    assert original.encrypted is bool(public)
    assert ConnectionInfo.from_json(original.to_json()) == original
    assert ConnectionInfo.from_json(file(curve_publickey=public)) == original
    # A kernel that finds such a key, even an empty one, encrypts.
    assert (b"curve" in original.to_json()) is bool(public)


@pytest.mark.parametrize("name", ["curve_publickey", "curve_secretkey"])
@pytest.mark.parametrize(
    "key",
    [
        pytest.param(SECRET[:-1], id="short"),
        pytest.param(SECRET + "0", id="long"),
        pytest.param(SECRET[:-1] + "~", id="another alphabet"),
        pytest.param(SECRET[:-1] + "é", id="not ASCII"),
        pytest.param("#" * 40, id="more than 32 bytes"),
    ],
)
def test_key_for_encryption_that_is_none(name, key) -> None:
    with pytest.raises(LocalProtocolError, match=f"{name} is not a CurveZMQ key"):
        info(**{"curve_publickey": PUBLIC, name: key})
    with pytest.raises(RemoteProtocolError, match=f"{name} is not a CurveZMQ key"):
        ConnectionInfo.from_json(file(**{"curve_publickey": PUBLIC, name: key}))


def test_secret_key_without_its_public_key() -> None:
    with pytest.raises(LocalProtocolError, match="no curve_publickey"):
        info(curve_secretkey=SECRET)


def test_key_that_no_file_can_hold() -> None:
    with pytest.raises(LocalProtocolError, match=r"^ConnectionInfo\.key holds a lone surrogate$"):
        info(key="\ud800").signer()


KEYS = {"key": KEY, "curve_publickey": PUBLIC, "curve_secretkey": SECRET}


def tells_a_key(text: str) -> bool:
    # Representations may escape some characters, so a part of the key will do.
    return any(key[:6] in text or key[-6:] in text for key in KEYS.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"shell_port": "x"},
        {"shell_port": 0},
        {"transport": "udp"},
        {"ip": ""},
        {"key": [KEY]},
        {"curve_publickey": PUBLIC + "0"},
        {"curve_secretkey": SECRET[:-1]},
        {"curve_publickey": ""},
        {"signature_scheme": "rot13"},
    ],
)
def test_complaint_does_not_tell_the_keys(wrong) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ConnectionInfo.from_json(file(**{**KEYS, **wrong}))
    assert not tells_a_key(repr(caught.value))
    assert caught.value.__cause__ is None
    # Some tools show the variables of a traceback, too; the first frame is that of this test.
    caught.value.__traceback__ = caught.value.__traceback__.tb_next
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert not tells_a_key("".join(shown.format()))


def test_keys_are_not_shown() -> None:
    secret = info(**KEYS, kernel_name="spec/r")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>200}",
        str([secret]),
        pprint.pformat({"info": secret}),
        repr(secret.__rich_repr__()),
        repr(secret.signer()),
    ]
    assert [text for text in shown if tells_a_key(text)] == []
    assert repr(secret) == (
        "<ConnectionInfo tcp://127.0.0.1 shell=1, iopub=2, stdin=3, control=4, hb=65535 "
        "kernel_name='spec/r' encrypted>"
    )
    assert ("kernel_name", "spec/r") in secret.__rich_repr__()


def test_pickle_keeps_the_keys() -> None:
    secret = info(**KEYS)
    assert pickle.loads(pickle.dumps(secret)) == secret


@pytest.mark.parametrize("scheme", ["hmac-sha256", "hmac-sha1"])
def test_signer(scheme) -> None:
    frames = [b"{}"] * 4
    signer = info(key=KEY, signature_scheme=scheme).signer()
    assert signer.sign(frames) == Signer(KEY.encode(), scheme).sign(frames)


def test_empty_key_turns_signing_off() -> None:
    assert not info(key="", signature_scheme="anything").signer().enabled


def test_unknown_scheme_in_a_file_is_a_remote_error() -> None:
    with pytest.raises(RemoteProtocolError, match="'rot13'"):
        ConnectionInfo.from_json(file(key=KEY, signature_scheme="rot13"))
    with pytest.raises(LocalProtocolError, match="'rot13'"):
        info(key=KEY, signature_scheme="rot13").signer()


def test_info_is_a_value() -> None:
    assert info() == info()
    assert len({info(), info(), info(key=KEY)}) == 2
    with pytest.raises(AttributeError):
        info().key = KEY  # type: ignore[misc]
