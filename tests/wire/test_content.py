from __future__ import annotations

import json
from typing import Any

import pytest

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import content
from kernelproto.wire.content import content_type, message_type
from kernelproto.wire.tolerant_json import decode, encode

BUNDLE = {
    "data": {"text/plain": "<b>", "application/json": {"a": [1]}, "image/png": "iVBORw0KGgo="},
    "metadata": {"image/png": {"width": 640}},
    "transient": {"display_id": "plot"},
}

# Every message type of specification 5.5, as it stands there, and usage, which is ipykernel's. Each
# has all fields of its own, none with its default value.
EXAMPLES: dict[str, dict[str, Any]] = {
    # shell
    "execute_request": {
        "code": "6 * 7",
        "silent": True,
        "store_history": False,
        "user_expressions": {"double": "2 * x"},
        "allow_stdin": True,
        "stop_on_error": False,
    },
    "execute_reply": {
        "execution_count": 3,
        "payload": [{"source": "page", "data": {"text/plain": "help"}, "start": 0}],
        "user_expressions": {"double": {"status": "ok", "data": {}, "metadata": {}}},
    },
    "inspect_request": {"code": "print", "cursor_pos": 5, "detail_level": 1},
    "inspect_reply": {"found": True, "data": {"text/plain": "print()"}, "metadata": {"a": 1}},
    "complete_request": {"code": "pri", "cursor_pos": 3},
    "complete_reply": {
        "matches": ["print", "printf"],
        "cursor_start": 1,
        "cursor_end": 3,
        "metadata": {"_jupyter_types_experimental": []},
    },
    "history_request": {
        "output": True,
        "raw": False,
        "hist_access_type": "range",
        "session": -1,
        "start": 1,
        "stop": 10,
        "n": 5,
        "pattern": "import *",
        "unique": True,
    },
    "history_reply": {"history": [[1, 2, "a = 1"], [1, 3, ["a", "1"]]]},
    "is_complete_request": {"code": "if x:"},
    "is_complete_reply": {"status": "incomplete", "indent": "    "},
    "connect_request": {},
    "connect_reply": {
        "shell_port": 1,
        "iopub_port": 2,
        "stdin_port": 3,
        "hb_port": 4,
        "control_port": 5,
    },
    "comm_info_request": {"target_name": "jupyter.widget"},
    "comm_info_reply": {"comms": {"u-u-i-d": {"target_name": "jupyter.widget"}}},
    "kernel_info_request": {},
    "kernel_info_reply": {
        "protocol_version": "5.5",
        "implementation": "ipython",
        "implementation_version": "9.0",
        "language_info": {
            "name": "python",
            "version": "3.13.0",
            "mimetype": "text/x-python",
            "file_extension": ".py",
            "pygments_lexer": "ipython3",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "nbconvert_exporter": "python",
        },
        "banner": "Python 3.13.0",
        "debugger": True,
        "help_links": [{"text": "Python", "url": "https://docs.python.org"}],
        "supported_features": ["kernel subshells", "debugger"],
    },
    # control
    "shutdown_request": {"restart": True},
    "shutdown_reply": {"restart": True},
    "interrupt_request": {},
    "interrupt_reply": {},
    "create_subshell_request": {},
    "create_subshell_reply": {"subshell_id": "s1"},
    "delete_subshell_request": {"subshell_id": "s1"},
    "delete_subshell_reply": {},
    "list_subshell_request": {},
    "list_subshell_reply": {"subshell_id": ["s1", "s2"]},
    "usage_request": {},
    "usage_reply": {
        "hostname": "ada",
        "pid": 815,
        "kernel_cpu": 12.5,
        "kernel_memory": 85_000_000,
        "cpu_count": 8,
        "host_cpu_percent": 3.25,
        "host_virtual_memory": {"total": 1, "percent": 37.5},
    },
    # iopub
    "stream": {"name": "stderr", "text": "42\n"},
    "display_data": BUNDLE,
    "update_display_data": BUNDLE,
    "execute_result": {**BUNDLE, "execution_count": 3},
    "error": {"ename": "KeyError", "evalue": "'x'", "traceback": ["\x1b[31mKeyError", "'x'"]},
    "clear_output": {"wait": True},
    "execute_input": {"code": "6 * 7", "execution_count": 3},
    "status": {"execution_state": "busy"},
    "iopub_welcome": {"subscription": "kernel.1"},
    "comm_open": {
        "comm_id": "u-u-i-d",
        "target_name": "jupyter.widget",
        "data": {"state": {}},
        "target_module": "widgets",
    },
    "comm_msg": {"comm_id": "u-u-i-d", "data": {"method": "update"}},
    "comm_close": {"comm_id": "u-u-i-d", "data": {"reason": "done"}},
    # stdin
    "input_request": {"prompt": "who? ", "password": True},
    "input_reply": {"value": "Ada"},
}

FAILURE = {"status": "error", "ename": "KeyError", "evalue": "'x'", "traceback": ["one", "two"]}
REPLIES = [msg_type for msg_type in EXAMPLES if msg_type.endswith("_reply")]
REPLIES.remove("input_reply")  # the client's answer, and no reply to a request of its own

REQUIRED = {
    "execute_request": ["code"],
    "inspect_request": ["code", "cursor_pos"],
    "complete_request": ["code", "cursor_pos"],
    "is_complete_request": ["code"],
    "delete_subshell_request": ["subshell_id"],
    "comm_open": ["comm_id", "target_name"],
    "comm_msg": ["comm_id"],
    "comm_close": ["comm_id"],
    "input_reply": ["value"],
}

each_type = pytest.mark.parametrize("msg_type", EXAMPLES)
each_reply = pytest.mark.parametrize("msg_type", REPLIES)


def read(msg_type: str, fields: dict[str, Any]) -> Any:
    return decode(json.dumps(fields).encode(), content_type(msg_type))


def test_every_content_has_its_example() -> None:
    shared = {content.Content, content.Request, content.Reply, content.MimeBundle}
    kinds = {
        kind
        for kind in vars(content).values()
        if isinstance(kind, type) and issubclass(kind, content.Content)
    }
    assert {content_type(name) for name in EXAMPLES} == kinds - shared - {content.LanguageInfo}


@each_type
def test_round_trip(msg_type) -> None:
    example = EXAMPLES[msg_type]
    typed = read(msg_type, example)
    assert isinstance(typed, content.Content)
    written = json.loads(encode(typed))
    assert {name: written[name] for name in example} == example
    assert decode(encode(typed), type(typed)) == typed


@each_type
def test_example_has_every_field_and_no_default(msg_type) -> None:
    example, kind = EXAMPLES[msg_type], content_type(msg_type)
    inherited = set(content.Reply.__struct_fields__) if msg_type in REPLIES else set()
    assert example.keys() | inherited == set(kind.__struct_fields__) | inherited
    required = REQUIRED.get(msg_type, [])
    minimal = read(msg_type, {name: example[name] for name in required})
    typed = read(msg_type, example)
    for name in example.keys() - set(required):
        assert getattr(typed, name) != getattr(minimal, name)


@each_type
def test_kind_knows_its_message_type(msg_type) -> None:
    assert message_type(content_type(msg_type)) == msg_type


@pytest.mark.parametrize("kind", [content.Content, content.Reply, content.MimeBundle])
def test_shared_kind_has_no_message_type(kind) -> None:
    with pytest.raises(KeyError):
        message_type(kind)


@pytest.mark.parametrize(
    "msg_type",
    ["debug_request", "debug_reply", "debug_event", "custom_request", "comm", "", "Stream", "dict"],
)
def test_other_types_stay_dicts(msg_type) -> None:
    fields = {"seq": 1, "type": "event", "body": {"threads": [None, 1.5]}}
    assert read(msg_type, fields) == fields


@each_type
def test_unknown_fields_are_passed_over(msg_type) -> None:
    example = EXAMPLES[msg_type]
    assert read(msg_type, {**example, "vendor": {"a": [1]}}) == read(msg_type, example)


@each_type
def test_only_fields_without_a_sensible_default_are_required(msg_type) -> None:
    required = REQUIRED.get(msg_type, [])
    fields = {name: EXAMPLES[msg_type][name] for name in required}
    assert isinstance(read(msg_type, fields), content.Content)
    for missing in required:
        with pytest.raises(MalformedMessage, match=missing):
            read(msg_type, {name: fields[name] for name in required if name != missing})


@each_type
def test_null_counts_as_left_out(msg_type) -> None:
    required = REQUIRED.get(msg_type, [])
    kind = content_type(msg_type)
    fields = {name: EXAMPLES[msg_type][name] for name in required}
    nulls = dict.fromkeys(kind.__struct_fields__)
    assert read(msg_type, {**nulls, **fields}) == read(msg_type, fields)


@each_type
def test_content_cannot_be_changed(msg_type) -> None:
    typed = read(msg_type, EXAMPLES[msg_type])
    for name in typed.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(typed, name, None)


@each_reply
def test_every_reply_can_be_an_error(msg_type) -> None:
    reply = read(msg_type, FAILURE)
    assert isinstance(reply, content.Reply)
    assert {name: getattr(reply, name) for name in FAILURE} == FAILURE
    assert not reply.aborted


@each_reply
@pytest.mark.parametrize("status", ["aborted", "abort"])
def test_every_reply_can_be_aborted(msg_type, status) -> None:
    assert read(msg_type, {"status": status}).aborted


@pytest.mark.parametrize("status", ["aborted", "abort"])
def test_execution_with_a_count_was_run(status) -> None:
    not_run = read("execute_reply", {"status": status})
    assert (not_run.aborted, not_run.interrupted) == (True, False)
    run = read("execute_reply", {"status": status, "execution_count": 3})
    assert (run.aborted, run.interrupted) == (False, True)


@each_reply
def test_reply_without_status_is_a_success(msg_type) -> None:
    reply = read(msg_type, {})
    # The status of is_complete_reply is its answer.
    assert reply.status == ("unknown" if msg_type == "is_complete_reply" else "ok")
    assert not reply.aborted


def test_defaults_are_not_shared() -> None:
    one, two = content.ExecuteReply(), content.ExecuteReply()
    one.payload.append({"source": "page"})
    assert two.payload == []


def test_only_a_given_comm_target_is_written() -> None:
    assert encode(content.CommInfoRequest()) == b"{}"


@pytest.mark.parametrize(
    ("transient", "display_id"),
    [
        ({}, None),
        ({"display_id": "a"}, "a"),
        ({"display_id": None}, None),
        ({"display_id": 1}, None),
    ],
)
@pytest.mark.parametrize("msg_type", ["display_data", "update_display_data", "execute_result"])
def test_display_id(msg_type, transient, display_id) -> None:
    assert read(msg_type, {"data": {}, "transient": transient}).display_id == display_id


def test_oddities_of_a_kernel_info_reply_are_forgiven() -> None:
    reply = read(
        "kernel_info_reply",
        {
            "protocol_version": 5,
            "language_info": {"name": "R", "version": 4.4, "pygments_lexer": None},
            "help_links": None,
            "debugger": None,
        },
    )
    assert reply.protocol_version == "5"
    assert reply.language_info == content.LanguageInfo(name="R", version="4.4")
    assert (reply.help_links, reply.debugger) == ([], False)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (content.Stream("stderr", "a"), {"output_type": "stream", "name": "stderr", "text": "a"}),
        (
            content.DisplayData({"text/plain": "a"}, {"width": 1}, {"display_id": "x"}),
            {"output_type": "display_data", "data": {"text/plain": "a"}, "metadata": {"width": 1}},
        ),
        (
            content.UpdateDisplayData({"text/plain": "b"}, {}, {"display_id": "x"}),
            {
                "output_type": "update_display_data",
                "data": {"text/plain": "b"},
                "metadata": {},
                "transient": {"display_id": "x"},
            },
        ),
        (
            content.ExecuteResult({"text/plain": "1"}, {}, {}, 3),
            {
                "output_type": "execute_result",
                "data": {"text/plain": "1"},
                "metadata": {},
                "execution_count": 3,
            },
        ),
        (
            content.ErrorOutput("E", "why", ["line"]),
            {"output_type": "error", "ename": "E", "evalue": "why", "traceback": ["line"]},
        ),
        (content.ClearOutput(wait=True), {"output_type": "clear_output", "wait": True}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_output_as_json(output: content.Output, expected: dict[str, Any]) -> None:
    assert output.to_dict() == expected
    assert json.loads(json.dumps(output.to_dict())) == expected
