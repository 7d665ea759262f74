from __future__ import annotations

import json
import pprint
from typing import Any

import pytest

from kernelproto.exceptions import LocalProtocolError, RemoteProtocolError
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo
from kernelproto.wire.signing import Signer

KEY = "a0436f6c-1916-498b-8eb9-e81ab9368e84"
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


@pytest.mark.parametrize(
    "wrong",
    [{"shell_port": "x"}, {"shell_port": 0}, {"transport": "udp"}, {"ip": ""}, {"key": [KEY]}],
)
def test_complaint_does_not_tell_the_key(wrong) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ConnectionInfo.from_json(file(**{"key": KEY, **wrong}))
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_key_is_not_shown() -> None:
    secret = info(key=KEY, kernel_name="spec/r")
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
    assert [text for text in shown if KEY in text] == []
    assert repr(secret) == (
        "<ConnectionInfo tcp://127.0.0.1 shell=1, iopub=2, stdin=3, control=4, hb=65535 "
        "kernel_name='spec/r'>"
    )
    assert ("kernel_name", "spec/r") in secret.__rich_repr__()


@pytest.mark.parametrize("scheme", ["hmac-sha256", "hmac-sha1"])
def test_signer(scheme) -> None:
    frames = [b"{}"] * 4
    signer = info(key=KEY, signature_scheme=scheme).signer()
    assert signer.sign(frames) == Signer(KEY.encode(), scheme).sign(frames)


def test_empty_key_turns_signing_off() -> None:
    assert not info(key="", signature_scheme="anything").signer().enabled


def test_unknown_scheme_in_a_file_is_the_fault_of_who_wrote_it() -> None:
    with pytest.raises(RemoteProtocolError, match="'rot13'"):
        ConnectionInfo.from_json(file(key=KEY, signature_scheme="rot13"))
    with pytest.raises(LocalProtocolError, match="'rot13'"):
        info(key=KEY, signature_scheme="rot13").signer()


def test_info_is_a_value() -> None:
    assert info() == info()
    assert len({info(), info(), info(key=KEY)}) == 2
    with pytest.raises(AttributeError):
        info().key = KEY  # type: ignore[misc]
