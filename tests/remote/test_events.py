from __future__ import annotations

import json

import pytest

from kernelproto.exceptions import ExecutionTimeout, KernelDied, KernelRestarted, MalformedMessage
from kernelproto.remote.events import (
    MOST_OUTPUT_BYTES,
    decode_line,
    encode_output,
    encode_refusal,
    output_of,
)
from kernelproto.remote.failures import error_of, failure_of

OUTPUTS = [
    ("stream", {"name": "stdout", "text": "caf\u00e9\n"}),
    ("stream", {"name": "stderr", "text": ""}),
    ("error", {"ename": "ValueError", "evalue": "no", "traceback": ["a", "b\nc"]}),
    ("clear_output", {"wait": True}),
    (
        "display_data",
        {
            "data": {"text/plain": "x", "image/png": "aGk=", "application/vnd.x+json": {"a": [1]}},
            "metadata": {"image/png": {"width": 3}},
            "transient": {"display_id": "d"},
        },
    ),
    ("update_display_data", {"data": {}, "metadata": {}, "transient": {"display_id": "d"}}),
    (
        "execute_result",
        {"data": {"text/plain": "1"}, "metadata": {}, "transient": {}, "execution_count": 7},
    ),
]


@pytest.mark.parametrize(("msg_type", "content"), OUTPUTS)
def test_an_output_survives_the_way_to_the_client(msg_type: str, content: object) -> None:
    line = encode_output(msg_type, json.dumps(content).encode(), 5)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert output_of(decode_line(line)) == (msg_type, content)


def test_names_are_those_of_e2b() -> None:
    content = b'{"data": {"text/plain": "1", "image/png": "aGk="}, "execution_count": 2}'
    assert json.loads(encode_output("execute_result", content, 5)) == {
        "type": "result",
        "text": "1",
        "png": "aGk=",
        "is_main_result": True,
        "execution_count": 2,
    }
    content = b'{"name": "stdout", "text": "hi"}'
    stdout = {"type": "stdout", "text": "hi", "timestamp": 5}
    assert json.loads(encode_output("stream", content, 5)) == stdout


def test_json_in_several_lines_becomes_one_line() -> None:
    content = json.dumps({"data": {"application/json": {"a": [1, 2]}}}, indent=2).encode()
    line = encode_output("display_data", content, 0)
    assert line.count(b"\n") == 1
    assert json.loads(line)["json"] == {"a": [1, 2]}


def test_bundle_with_very_many_keys_is_not_examined() -> None:
    data = {f"a/{number}": 0 for number in range(60_000)} | {"text/plain": "x"}
    content = {"data": data, "metadata": {}, "transient": {}}
    line = encode_output("display_data", json.dumps(content).encode(), 0)
    assert json.loads(line)["extra"] == data
    assert output_of(decode_line(line)) == ("display_data", content)


@pytest.mark.parametrize(
    "content", [b'{"data": {"application/json": NaN}}', b'{"data": {"text/plain": "\\ud800"}}']
)
def test_faults_of_kernels_are_repaired(content: bytes) -> None:
    assert output_of(decode_line(encode_output("display_data", content, 0))) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"data": {"a": "' + b"x" * MOST_OUTPUT_BYTES + b'"}}',
        b'{"data": {"a": NaN, "b": "' + b"x" * 2**20 + b'"}}',
    ],
)
def test_unreadable_output_is_refused_with_a_trace(content: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        encode_output("display_data", content, 0)
    event = json.loads(encode_refusal("display_data", caught.value, 0))
    assert event["type"] == "stderr"
    assert "an output is missing here: the kernel's display_data" in event["text"]


@pytest.mark.parametrize("line", [b"", b"[1]", b"{}", b'{"type": 1}'])
def test_other_lines_are_no_events(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_line(line)


def test_other_events_are_no_outputs() -> None:
    assert output_of({"type": "keepalive"}) is None
    assert output_of({"type": "from the future"}) is None


@pytest.mark.parametrize(
    "error",
    [
        KernelDied("it died", returncode=-9, reason="memory"),
        KernelRestarted("it was restarted", returncode=None),
        ExecutionTimeout("too long", seconds=2.5, restarted=True),
    ],
)
def test_exceptions_survive_the_way_to_the_client(error) -> None:
    again = error_of(failure_of(error, str(error)))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
