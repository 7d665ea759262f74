from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import tolerant_json
from kernelproto.wire.adapter_v4 import AdapterV4, needs_adapter, protocol_version
from kernelproto.wire.codec import Codec
from kernelproto.wire.content import (
    CompleteReply,
    DisplayData,
    ErrorOutput,
    ExecuteInput,
    ExecuteReply,
    ExecuteResult,
    InputRequest,
    InspectReply,
    KernelInfoReply,
    LanguageInfo,
    Stream,
)
from kernelproto.wire.message import Frame, Message
from kernelproto.wire.signing import Signer

# Headers as both sides write them; version 4 has no "version".
REQUEST_HEADER = {
    "msg_id": "s_1",
    "msg_type": "",
    "session": "s",
    "username": "ada",
    "date": "2026-11-20T12:00:00Z",
    "version": "5.5",
}
KERNEL_HEADER = {"msg_id": "k_1", "msg_type": "", "session": "k", "username": "kernel"}


def message(
    msg_type: str,
    content: object,
    *,
    header: dict[str, Any] = KERNEL_HEADER,
    parent: dict[str, Any] | None = None,
    metadata: bytes = b"{}",
    buffers: tuple[bytes, ...] = (),
    identities: tuple[bytes, ...] = (),
) -> Message:
    """Return a message as the codec makes it."""
    parts: list[Frame] = [
        json.dumps({**header, "msg_type": msg_type}).encode(),
        json.dumps(parent or {}).encode(),
        metadata,
        content if isinstance(content, bytes) else json.dumps(content).encode(),
        *buffers,
    ]
    return Codec(signer=Signer.disabled()).decode([*identities, b"<IDS|MSG>", b"", *parts])


def request(msg_type: str, content: object, msg_id: str = "s_1") -> Message:
    return message(msg_type, content, header={**REQUEST_HEADER, "msg_id": msg_id})


def reply(msg_type: str, content: object, parent_id: str = "s_1") -> Message:
    return message(msg_type, content, parent={"msg_id": parent_id, "msg_type": "x_request"})


def read(raw: Frame) -> Any:
    return json.loads(bytes(raw))


# Golden messages, in version 5 and in version 4.

EXECUTE = {
    "code": "6 * 7",
    "silent": False,
    "store_history": True,
    "user_expressions": {"x": "x"},
    "allow_stdin": True,
    "stop_on_error": True,
}
REQUESTS = {
    "execute": (
        ("execute_request", EXECUTE),
        ("execute_request", {**EXECUTE, "user_variables": []}),
    ),
    "execute, as little as can be": (
        ("execute_request", {"code": "1"}),
        ("execute_request", {"code": "1", "user_variables": [], "user_expressions": {}}),
    ),
    "execute, written for version 4": (
        ("execute_request", {"code": "1", "user_variables": ["x"], "user_expressions": {}}),
        ("execute_request", {"code": "1", "user_variables": ["x"], "user_expressions": {}}),
    ),
    "complete": (
        ("complete_request", {"code": "import os\nos.pa(1)\n", "cursor_pos": 15}),
        (
            "complete_request",
            {"text": "", "line": "os.pa(1)", "block": None, "cursor_pos": 5},
        ),
    ),
    "complete, cursor before the code": (
        ("complete_request", {"code": "ab", "cursor_pos": -1}),
        ("complete_request", {"text": "", "line": "ab", "block": None, "cursor_pos": 0}),
    ),
    "complete, no cursor": (
        ("complete_request", {"code": "ab", "cursor_pos": None}),
        ("complete_request", {"text": "", "line": "ab", "block": None, "cursor_pos": 2}),
    ),
    "complete, no code": (
        ("complete_request", {"code": None, "cursor_pos": 2}),
        ("complete_request", {"text": "", "line": "", "block": None, "cursor_pos": 0}),
    ),
    "inspect": (
        ("inspect_request", {"code": "x\nmap.get", "cursor_pos": 5, "detail_level": 1}),
        ("object_info_request", {"oname": "map", "detail_level": 1}),
    ),
    "inspect, as little as can be": (
        ("inspect_request", {"code": "abs"}),
        ("object_info_request", {"oname": "abs", "detail_level": 0}),
    ),
}


@pytest.mark.parametrize(("v5", "v4"), REQUESTS.values(), ids=REQUESTS)
def test_golden_request(v5, v4) -> None:
    adapted = AdapterV4().to_kernel(request(*v5))
    assert (adapted.msg_type, read(adapted.raw_content)) == v4


EXPRESSION = {"status": "ok", "data": {"text/plain": "42"}, "metadata": {}}
V4_REPLY = {
    "status": "ok",
    "execution_count": 3,
    "user_variables": {"x": EXPRESSION, "y": "hidden by the expression"},
    "user_expressions": {"y": "42"},
    "payload": [
        {"source": "page", "text": "help", "html": "<b>help</b>", "start_line_number": 7},
        {"source": "IPython.kernel.zmq.page.page", "text": "help", "html": None},
        {"source": "set_next_input", "text": "help", "replace": False},
        {"source": "page", "data": {"text/plain": "help"}, "start": 0},
        "no payload at all",
    ],
}
V5_REPLY = {
    "status": "ok",
    "execution_count": 3,
    "user_expressions": {"x": EXPRESSION, "y": EXPRESSION},
    "payload": [
        {
            "source": "page",
            "data": {"text/plain": "help", "text/html": "<b>help</b>"},
            "start": 7,
        },
        {"source": "page", "data": {"text/plain": "help"}, "start": 0},
        {"source": "set_next_input", "text": "help", "replace": False},
        {"source": "page", "data": {"text/plain": "help"}, "start": 0},
        "no payload at all",
    ],
}
OBJECT_INFO = {
    "oname": "f",
    "found": True,
    "definition": "f(a=5)",
    "init_definition": None,
    "docstring": "Does it.",
    "source": "None",
}
BUNDLE = {"text/plain": "{'a': 1}", "application/json": {"a": 1}}
V4_BUNDLE = {**BUNDLE, "application/json": '{"a": 1}'}

OUTPUTS = {
    "kernel_info": (
        (
            "kernel_info_reply",
            {
                "protocol_version": [4, 1],
                "ipython_version": [2, 4, 1, ""],
                "language_version": [2, 7, 18],
                "language": "python",
            },
        ),
        (
            "kernel_info_reply",
            {
                "status": "ok",
                "protocol_version": "4.1",
                "implementation": "ipython",
                "implementation_version": "2.4.1",
                "language_info": {"name": "python", "version": "2.7.18"},
                "banner": "",
            },
        ),
    ),
    "kernel_info of another language": (
        (
            "kernel_info_reply",
            {
                "protocol_version": [4, 1],
                "language": "julia",
                "language_version": "0.3",
                "language_info": {"file_extension": ".jl"},
                "banner": "Julia!",
            },
        ),
        (
            "kernel_info_reply",
            {
                "status": "ok",
                "protocol_version": "4.1",
                "language_info": {"name": "julia", "version": "0.3", "file_extension": ".jl"},
                "banner": "Julia!",
            },
        ),
    ),
    "kernel_info, as little as can be": (
        ("kernel_info_reply", {}),
        (
            "kernel_info_reply",
            {
                "status": "ok",
                "protocol_version": "",
                "language_info": {"name": "", "version": ""},
                "banner": "",
            },
        ),
    ),
    "execute": (("execute_reply", V4_REPLY), ("execute_reply", V5_REPLY)),
    "execute, as little as can be": (
        ("execute_reply", {"status": "ok"}),
        ("execute_reply", {"status": "ok", "user_expressions": {}, "payload": []}),
    ),
    "inspect": (
        ("object_info_reply", OBJECT_INFO),
        (
            "inspect_reply",
            {
                **OBJECT_INFO,
                "status": "ok",
                "data": {"text/plain": "f(a=5)\nDoes it."},
                "metadata": {},
            },
        ),
    ),
    "inspect what is not there": (
        ("object_info_reply", {"oname": "f", "found": False}),
        (
            "inspect_reply",
            {"oname": "f", "found": False, "status": "ok", "data": {}, "metadata": {}},
        ),
    ),
    "inspect, as little as can be": (
        ("object_info_reply", {}),
        ("inspect_reply", {"found": False, "status": "ok", "data": {}, "metadata": {}}),
    ),
    "stdout": (
        ("stream", {"name": "stdout", "data": "42\n"}),
        ("stream", {"name": "stdout", "text": "42\n"}),
    ),
    "display": (
        ("display_data", {"source": "display", "data": V4_BUNDLE, "metadata": {"a": 1}}),
        ("display_data", {"data": BUNDLE, "metadata": {"a": 1}}),
    ),
    "result": (
        ("pyout", {"execution_count": 3, "data": V4_BUNDLE}),
        ("execute_result", {"execution_count": 3, "data": BUNDLE, "metadata": {}}),
    ),
    "input echoed": (
        ("pyin", {"code": "6 * 7", "execution_count": 3}),
        ("execute_input", {"code": "6 * 7", "execution_count": 3}),
    ),
    "error": (
        ("pyerr", {"ename": "E", "evalue": "why", "traceback": ["here"]}),
        ("error", {"ename": "E", "evalue": "why", "traceback": ["here"]}),
    ),
    "clear_output": (
        ("clear_output", {"stdout": True}),
        ("clear_output", {"stdout": True, "wait": False}),
    ),
    "clear_output that waits": (
        ("clear_output", {"wait": True}),
        ("clear_output", {"wait": True}),
    ),
    "password": (
        ("input_request", {"prompt": "", "password": True}),
        ("input_request", {"prompt": "", "password": True}),
    ),
    "stdin": (
        ("input_request", {"prompt": "who? "}),
        ("input_request", {"prompt": "who? ", "password": False}),
    ),
}


@pytest.mark.parametrize(("v4", "v5"), OUTPUTS.values(), ids=OUTPUTS)
def test_golden_output(v4, v5) -> None:
    adapted = AdapterV4().from_kernel(reply(*v4))
    assert (adapted.msg_type, read(adapted.raw_content)) == v5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "kernel_info",
            KernelInfoReply(
                protocol_version="4.1",
                implementation="ipython",
                implementation_version="2.4.1",
                language_info=LanguageInfo(name="python", version="2.7.18"),
            ),
        ),
        (
            "execute",
            ExecuteReply(
                execution_count=3,
                user_expressions=V5_REPLY["user_expressions"],
                payload=V5_REPLY["payload"][:-1],
            ),
        ),
        ("inspect", InspectReply(found=True, data={"text/plain": "f(a=5)\nDoes it."})),
        ("stdout", Stream(text="42\n")),
        ("display", DisplayData(data=BUNDLE, metadata={"a": 1})),
        ("result", ExecuteResult(execution_count=3, data=BUNDLE)),
        ("input echoed", ExecuteInput(code="6 * 7", execution_count=3)),
        ("error", ErrorOutput(ename="E", evalue="why", traceback=["here"])),
        ("stdin", InputRequest(prompt="who? ")),
    ],
)
def test_golden_output_is_read_with_its_own_type(name, content) -> None:
    msg_type, v4 = OUTPUTS[name][0]
    if name == "execute":  # a Struct holds no payload that is none
        v4 = {**v4, "payload": v4["payload"][:-1]}
    assert AdapterV4().from_kernel(reply(msg_type, v4)).content == content


# The description of an object.


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"call_def": "f()", "init_definition": "F()", "docstring": "D"}, "f()\nD"),
        ({"init_definition": "F()", "init_docstring": "I", "docstring": "D"}, "F()\nI"),
        ({"definition": "", "call_docstring": "C"}, "C"),
        ({"definition": "f()", "docstring": "D", "source": "def f(): ..."}, "f()\nD\ndef f(): ..."),
        ({"string_form": "42", "type_name": "int"}, "42"),
        ({"string_form": None, "type_name": "int", "source": "None"}, "int"),
        ({"docstring": ["D"]}, None),
    ],
)
def test_description_of_an_object(told, text) -> None:
    adapted = AdapterV4().from_kernel(reply("object_info_reply", {"found": True, **told}))
    assert adapted.content.data.get("text/plain") == text
    assert adapted.content.found


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("|", ""),
        ("pri|nt", "print"),
        ("print|", "print"),
        ("|print", "print"),
        ("print|(x)", "print"),
        ("print(|", "print"),
        ("print(x, y|)", "print"),
        ("print(len(x), y|", "print"),
        ("print(len(x|", "len"),
        ("f(a)(b)|", "f"),
        ("f(a).me|thod", "f.method"),
        ("os.path|.join", "os.path"),
        ("os.path.|", "os.path"),
        ("x = y|", "y"),
        ("x[y|]", "y"),
        ("1 + 2|", ""),
        ("(x|", "x"),
        ("1 + f((x|", "x"),
        ("a + (x|", "x"),
        ("f (x|", "x"),
        ("naïve_ñame|", "naïve_ñame"),
        ("𨭎|", "𨭎"),
        ("first\nsecond|\nthird", "second"),
        ("first(\n|second", "second"),
        ("first\n|", ""),
        (")" * 5 + "x|", "x"),
    ],
)
def test_name_at_the_cursor(code, name) -> None:
    content = {"code": code.replace("|", ""), "cursor_pos": code.index("|")}
    adapted = AdapterV4().to_kernel(request("inspect_request", content))
    assert read(adapted.raw_content)["oname"] == name


# Where a completion goes.


@pytest.mark.parametrize(
    ("code", "line", "matched", "replaced"),
    [
        ("os.pa|", "os.pa|", "os.pa", (0, 5)),
        ("import os\nos.pa|", "os.pa|", "os.pa", (10, 15)),
        ("import os\nos.pa|th\nos", "os.pa|th", "pa", (13, 15)),
        ("x = 1\n|", "|", "", (6, 6)),
        ("|\nx", "|", "", (0, 0)),
        ("x\n|y", "|y", "", (2, 2)),
        ("𨭎 = 1; 𨭎|", "𨭎 = 1; 𨭎|", "𨭎", (7, 8)),
        ("a|", "a|", "longer than the code", (0, 1)),
        ("a|", "a|", None, (1, 1)),
    ],
)
def test_completion_finds_its_place_in_the_code(code, line, matched, replaced) -> None:
    adapter = AdapterV4()
    content = {"code": code.replace("|", ""), "cursor_pos": code.index("|")}
    asked = read(adapter.to_kernel(request("complete_request", content)).raw_content)
    assert asked["line"] == line.replace("|", "")
    assert asked["cursor_pos"] == line.index("|")
    answer = {"status": "ok", "matches": ["path"], "matched_text": matched}
    adapted = adapter.from_kernel(reply("complete_reply", answer))
    assert adapted.content == CompleteReply(
        matches=["path"], cursor_start=replaced[0], cursor_end=replaced[1]
    )
    assert "matched_text" not in read(adapted.raw_content)


def complete(adapter: AdapterV4, msg_id: str) -> None:
    adapter.to_kernel(request("complete_request", {"code": "ab", "cursor_pos": 2}, msg_id))


def is_placed(adapter: AdapterV4, parent_id: str) -> bool:
    answer = {"matches": ["abs"], "matched_text": "ab"}
    adapted = adapter.from_kernel(reply("complete_reply", answer, parent_id))
    assert adapted.content.matches == ["abs"]
    return "cursor_start" in read(adapted.raw_content)


def test_completions_may_be_answered_in_any_order_and_once() -> None:
    adapter = AdapterV4()
    complete(adapter, "a")
    complete(adapter, "b")
    assert [is_placed(adapter, parent_id) for parent_id in "baxa"] == [True, True, False, False]


def test_completion_without_a_request_passes_unchanged() -> None:
    content = b'{"matches": ["abs"], "matched_text": "ab"}'
    adapted = AdapterV4().from_kernel(message("complete_reply", content))
    assert adapted.raw_content == content


def test_completions_that_are_never_answered_are_forgotten() -> None:
    adapter = AdapterV4()
    for number in range(1025):
        complete(adapter, str(number))
    assert [is_placed(adapter, parent_id) for parent_id in ("0", "1", "1024")] == [
        False,
        True,
        True,
    ]


def test_completion_that_failed_is_over() -> None:
    adapter = AdapterV4()
    complete(adapter, "a")
    failure = b'{"status": "error", "ename": "E"}'
    assert adapter.from_kernel(reply("complete_reply", failure, "a")).raw_content == failure
    assert not is_placed(adapter, "a")


# Headers and other messages.


def test_request_has_no_version_and_keeps_the_rest() -> None:
    header = {**REQUEST_HEADER, "vendor": [1, None]}
    quoted = {"msg_id": "k_0", "msg_type": "inspect_request", "version": "5.0", "vendor": 1}
    sent = message(
        "inspect_request",
        {"vendor": 1},
        header=header,
        parent=quoted,
        metadata=b'{"a" :1}',
        buffers=(b"\xff",),
        identities=(b"id",),
    )
    adapted = AdapterV4().to_kernel(sent)
    del header["version"], quoted["version"]
    assert read(adapted.raw_header) == {**header, "msg_type": "object_info_request"}
    assert read(adapted.raw_parent_header) == {**quoted, "msg_type": "object_info_request"}
    assert (adapted.msg_id, adapted.header.version) == ("s_1", "")
    assert adapted.parent_header is not None
    assert adapted.parent_header.msg_type == "object_info_request"
    assert adapted.raw_metadata == b'{"a" :1}'
    assert read(adapted.raw_content)["vendor"] == 1
    assert list(adapted.buffers) == [b"\xff"]
    assert list(adapted.identities) == [b"id"]


def test_output_has_a_version_and_keeps_the_rest() -> None:
    header = {**KERNEL_HEADER, "vendor": [1, None]}
    quoted = {"msg_id": "s_1", "msg_type": "object_info_request", "vendor": 1}
    sent = message(
        "pyout",
        {"vendor": 1},
        header=header,
        parent=quoted,
        metadata=b'{"a" :1}',
        buffers=(b"\xff",),
        identities=(b"topic",),
    )
    adapted = AdapterV4().from_kernel(sent)
    assert read(adapted.raw_header) == {**header, "msg_type": "execute_result", "version": "5.0"}
    assert read(adapted.raw_parent_header) == {
        **quoted,
        "msg_type": "inspect_request",
        "version": "5.0",
    }
    assert (adapted.msg_id, adapted.header.version) == ("k_1", "5.0")
    assert adapted.parent_header is not None
    assert adapted.parent_header.msg_type == "inspect_request"
    assert adapted.raw_metadata == b'{"a" :1}'
    assert read(adapted.raw_content)["vendor"] == 1
    assert list(adapted.buffers) == [b"\xff"]
    assert list(adapted.identities) == [b"topic"]


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        pytest.param("vendor_event", b'{ "data":1e2, "a":NaN }', id="unknown type"),
        pytest.param("comm_msg", b'{"comm_id":"c" ,"data":{}}', id="alike in both"),
        pytest.param("status", b'{"execution_state" :"idle"}', id="status"),
        pytest.param("input_reply", b'{"value" :"ada"}', id="answer"),
    ],
)
def test_messages_that_are_alike_or_unknown_pass_unchanged(msg_type, content) -> None:
    original = message(msg_type, content, parent=REQUEST_HEADER, buffers=(b"\xff",))
    for adapted in (AdapterV4().to_kernel(original), AdapterV4().from_kernel(original)):
        assert adapted.msg_type == msg_type
        assert adapted.parts[2:] == original.parts[2:]


@pytest.mark.parametrize(
    "msg_type", ["execute_reply", "object_info_reply", "kernel_info_reply", "complete_reply"]
)
@pytest.mark.parametrize("status", ["error", "abort", "aborted"])
def test_failures_pass_unchanged(msg_type, status) -> None:
    content = {"status": status, "ename": "E", "user_variables": {}}
    adapted = AdapterV4().from_kernel(reply(msg_type, content))
    assert read(adapted.raw_content) == content
    assert getattr(adapted.content, "status", status) == status


def test_text_that_is_not_utf_8_is_adapted() -> None:
    adapted = AdapterV4().from_kernel(reply("stream", b'{"data":"caf\xe9"}'))
    assert adapted.content == Stream(text="caf\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"5", b"garbage", b'{"a":' * 100_000])
def test_unreadable_content_passes_unchanged(content) -> None:
    adapter = AdapterV4()
    for msg_type in ("execute_request", "complete_request", "inspect_request"):
        adapted = adapter.to_kernel(request(msg_type, content))
        assert adapted.raw_content == content or content in (b"", b"null")
    for msg_type in ("stream", "pyout", "execute_reply", "complete_reply"):
        adapted = adapter.from_kernel(reply(msg_type, content))
        assert adapted.raw_content == content or content in (b"", b"null")


def test_content_that_breaks_the_rules_is_adapted_all_the_same() -> None:
    adapted = AdapterV4().from_kernel(
        reply("stream", rb'{"name": "stdout", "data": "\ud800", "share": NaN}')
    )
    assert adapted.content == Stream(text="\ud800")


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "1" * 10_000])
def test_text_that_is_no_json_stays_text(text) -> None:
    adapted = AdapterV4().from_kernel(reply("pyout", {"data": {"application/json": text}}))
    assert adapted.content.data == {"application/json": text}


def deepest_that_can_be_read() -> int:
    deep, too_deep = 1, 1_000_000
    while deep + 1 < too_deep:
        depth = (deep + too_deep) // 2
        try:
            tolerant_json.decode(nested(depth), dict)
        except MalformedMessage:
            too_deep = depth
        else:
            deep = depth
    return deep


def nested(depth: int) -> bytes:
    return b'{"msg_id":"1","msg_type":"pyout","x":%b%b}' % (b"[" * depth, b"]" * depth)


def test_readable_content_may_be_too_deep_to_be_written() -> None:
    adapt = AdapterV4().from_kernel
    original = message("pyout", {})
    deepest = deepest_that_can_be_read()
    outcomes = set()
    for depth in range(deepest - 20, deepest + 20):
        parts = [*original.parts[:3], nested(depth)]
        adapt(Message(original.header, None, parts))
        try:
            adapt(Message(original.header, None, [nested(depth), *parts[1:]]))
        except MalformedMessage as error:
            outcomes.add(str(error).split(":")[0])
    assert outcomes == {"cannot be adapted", "cannot be read as dict"}


# Which kernels need it.


@pytest.mark.parametrize(
    ("content", "version", "needed"),
    [
        ({"protocol_version": [4, 1]}, "4.1", True),
        ({"protocol_version": [4]}, "4", True),
        ({"protocol_version": "4.1"}, "4.1", True),
        ({"protocol_version": 4.1}, "4.1", True),
        ({"protocol_version": "5.3"}, "5.3", False),
        ({"protocol_version": [5, 0]}, "5.0", False),
        ({"protocol_version": "40.1"}, "40.1", False),
        ({"protocol_version": ""}, "", False),
        ({"protocol_version": []}, "", False),
        ({"protocol_version": None}, "", False),
        ({}, "", False),
        (b"null", "", False),
    ],
)
def test_version_is_read_from_kernel_info(content, version, needed) -> None:
    told = protocol_version(message("kernel_info_reply", content))
    assert told == version
    assert needs_adapter(told) is needed


def test_adapted_kernel_info_keeps_version_4() -> None:
    adapted = AdapterV4().from_kernel(message("kernel_info_reply", {"protocol_version": [4, 1]}))
    assert protocol_version(adapted) == adapted.content.protocol_version == "4.1"


def test_kernel_info_that_cannot_be_read() -> None:
    with pytest.raises(MalformedMessage):
        protocol_version(message("kernel_info_reply", b"[4, 1]"))


# Whatever comes.


values = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "a.b", "page", "[1", "[1]", [], ["", 1], {}, {"text": "a"}]
)
FIELDS = sorted(
    {
        field
        for direction in (REQUESTS, OUTPUTS)
        for pair in direction.values()
        for _, content in pair
        for field in content
    }
    | {"matched_text", "matches", "string_form"}
)
contents = st.dictionaries(st.sampled_from(FIELDS), values) | st.fixed_dictionaries(
    {
        "payload": st.lists(st.dictionaries(st.sampled_from(["source", "text", "html"]), values)),
        "data": st.dictionaries(st.just("application/json"), values),
        "code": st.text(alphabet="ab.() \n"),
        "cursor_pos": st.integers(-1, 5),
    }
)
TYPES = sorted(
    {
        msg_type
        for direction in (REQUESTS, OUTPUTS)
        for pair in direction.values()
        for msg_type, _ in pair
    }
    | {"complete_reply", "object_info_reply"}
)


@given(
    st.sampled_from(TYPES), contents.map(lambda content: json.dumps(content).encode()) | st.binary()
)
def test_any_content_is_adapted_or_passed_on(msg_type, content) -> None:
    adapter = AdapterV4()
    adapter.to_kernel(request("complete_request", content))
    down = adapter.to_kernel(request(msg_type, content))
    up = adapter.from_kernel(reply(msg_type, content))
    assert (down.msg_id, up.msg_id) == ("s_1", "k_1")
    assert (down.header.version, up.header.version) == ("", "5.0")
