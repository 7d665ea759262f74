"""How does the time grow with a number that a kernel, a client or a user chooses?

No sockets and no event loop. A kernel that could make the client take quadratic time would stop
everything else in its program, and so could a user of a server. ``tests/benchmarks/test_growth.py``
counts the same work in bytecode instructions, without a clock.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question
from kernelproto.client.comms import Comms
from kernelproto.client.dispatcher import Dispatcher
from kernelproto.client.observers import MessageStream
from kernelproto.client.output_buffer import OutputBuffer
from kernelproto.client.page import Displays, OutputPage
from kernelproto.client.result import ExecutionResult
from kernelproto.exceptions import MalformedMessage
from kernelproto.fanout.replay_log import ReplayLog
from kernelproto.launch.spec.naming import nearest_first
from kernelproto.notebook.recorder import Recorder
from kernelproto.server.session_table import Session, SessionTable
from kernelproto.wire import Codec, MessageFactory, content
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo
from kernelproto.wire.content import Content, DisplayData, Stream, UpdateDisplayData, message_type
from kernelproto.wire.conversation import Conversation
from kernelproto.wire.message import Message
from kernelproto.wire.websocket import FROM_SERVER, V1Framing

# Prepares work on a number of items; only the work itself is measured.
Prepare = Callable[[int], Callable[[], object]]

_SIZE = Sizes(1_000, 1_000, 10)
_ROOMY = 2**40
_KEY = b"growth"


def _display(number: int) -> DisplayData:
    return DisplayData({"text/plain": "old"}, {}, {"display_id": f"id-{number}"})


def _update(number: int) -> UpdateDisplayData:
    return UpdateDisplayData({"text/plain": "new"}, {}, {"display_id": f"id-{number}"})


def _factory() -> MessageFactory:
    numbers = iter(range(2**62))
    return MessageFactory(
        session="kernel", username="", new_id=lambda: f"id-{next(numbers)}", now=lambda: "today"
    )


def _page(displays: int, pages: int, count: int) -> Callable[[], object]:
    """Show and update *count* outputs, with the given numbers of displays and pages."""
    shown = [_display(number % displays) for number in range(count)]
    updates = [_update(number % displays) for number in range(count)]

    def work() -> object:
        shared = Displays(_ROOMY)
        written = [OutputPage(shared) for _ in range(pages)]
        for number, output in enumerate(shown):
            written[number % pages].take(output, 100)
        for update in updates:
            written[0].take(update, 100)
        return [page.outputs() for page in written]

    return work


def _alternating(count: int) -> Callable[[], object]:
    outputs = [output for number in range(count) for output in (_display(0), _update(number))]

    def work() -> object:
        buffer = OutputBuffer(100_000)
        for output in outputs:
            buffer.append(output, 100)
            buffer.read()
        return buffer.page.outputs()

    return work


def _text(count: int) -> Callable[[], object]:
    result = ExecutionResult(status="ok", outputs=[Stream("stdout", "x" * 100)] * count)
    return result.to_notebook_outputs


def _recorded(contents: Callable[[str, int], list[Content]], count: int) -> Callable[[], object]:
    factory = _factory()
    request = factory.message("execute_request", content.ExecuteRequest(code=""))
    messages = [
        factory.message(message_type(type(said)), said, parent=request)
        for said in contents(request.msg_id, count)
    ]

    def work() -> object:
        recorder = Recorder(record_timing=False, limit=_ROOMY)
        recorder.begin(request, {})
        for message in messages:
            recorder.offer(message, "iopub")
        recorder.settle()
        return recorder.widgets.metadata()

    return work


def _cell_contents(_: str, count: int) -> list[Content]:
    outputs: list[Content] = []
    for number in range(count):
        outputs += [_display(number), _display(0), Stream("stdout", "x"), _update(number)]
    return outputs


def _widget_contents(msg_id: str, count: int) -> list[Content]:
    model = {"_model_name": "OutputModel", "_model_module": "@jupyter-widgets/output"}
    said: list[Content] = []
    for number in range(count):
        data = {"state": {**model, "msg_id": msg_id, "outputs": []}}
        said.append(content.CommOpen(comm_id=f"{number}", target_name="jupyter.widget", data=data))
        said.append(_display(0))
    for number in range(count):
        data = {"state": {"msg_id": f"another-{number}"}}
        said += [content.CommMessage(comm_id=f"{number}", data=data), _update(0)]
    return said


class _NoClient:
    """Implements CommSender: the kernel's side of the comms is not part of this."""

    async def send_comm(self, *arguments: object) -> None: ...

    def start_task(self, *arguments: object) -> None: ...


def _comms(count: int) -> Callable[[], object]:
    factory = _factory()
    said = [content.CommMessage(comm_id=f"{number}", data={"a": 1}) for number in range(count)]
    closed = [content.CommClose(comm_id=f"{number}") for number in range(count)]
    messages = [factory.message(message_type(type(item)), item) for item in [*said, *closed]]

    def work() -> object:
        comms = Comms(_NoClient(), {})
        for number in range(count):
            comms.attach(f"{number}", "target")
        for message in messages:
            comms.receive(message)
        return comms

    return work


def _json(value: object) -> Callable[[], object]:
    message = _message(content=json.dumps(value).encode())
    frames = Codec(_KEY).encode(message)

    def work() -> object:
        message = Codec(_KEY).decode(frames)
        try:
            return message.content
        except MalformedMessage as error:  # beyond the depth that can be read
            return error

    return work


def _message(**changed: bytes) -> Message:
    message = _factory().message("stream", Stream("stdout", "text"))
    header, parent, metadata, said = message.parts
    parts = (header, parent, changed.get("metadata", metadata), changed.get("content", said))
    return Message(message.header, None, parts)


def _names(count: int) -> Callable[[], object]:
    return _json({"text": "x", "odd": float("nan")} | {f"name-{n}": n for n in range(count)})


def _depth(count: int) -> Callable[[], object]:
    nested: Any = float("nan")
    for _ in range(count // 10):
        nested = [nested]
    return _json({"text": "x", "nested": nested})


def _parts(count: int) -> Callable[[], object]:
    message = _factory().message("stream", Stream("stdout", "text"), buffers=[b"x"] * count)
    frames = Codec(_KEY).encode(message, [b"identity"] * count)
    framing = V1Framing(FROM_SERVER)

    def work() -> object:
        return framing.decode(framing.encode("iopub", Codec(_KEY).decode(frames)))

    return work


def _long_name(count: int) -> Callable[[], object]:
    return lambda: nearest_first("n" * count, ["spec/python3", "pyimport/kernel"])


def _refused(count: int) -> Callable[[], object]:
    ports = {f"{name}_port": number for number, name in enumerate(CHANNEL_NAMES, 1)}
    info = ConnectionInfo(key="growth", **ports)
    frames = [Codec(b"another").encode(_message())] * count

    def work() -> object:
        dispatcher = Dispatcher(info, "session", lambda *_: None, lambda *_: True)
        for received in frames:
            dispatcher.deliver("iopub", received)
        return dispatcher.refused

    return work


def _observed(count: int) -> Callable[[], object]:
    messages = [_factory().message("stream", Stream("stdout", "text")) for _ in range(count)]

    def work() -> object:
        stream = MessageStream(("iopub",), None, limit=100_000, overflow="drop_oldest")
        ring = ReplayLog(100_000, 60.0)
        place = ring.join("session")
        for message in messages:
            stream.offer(message, "iopub")
            ring.append(message, "iopub")
            ring.next(place)
            ring.advance(place)
            ring.acknowledge(place, place.sent)
        return stream.dropped

    return work


def _history(count: int) -> Callable[[], object]:
    history = [(1, number, f"x = {number}") for number in range(count)]
    reply = content.HistoryReply(status="ok", history=history)
    frames = Codec(_KEY).encode(_factory().message("history_reply", reply))
    return lambda: Codec(_KEY).decode(frames).content


def _requests(count: int) -> Callable[[], object]:
    """Receive the replies to *count* executions, and then all their statuses."""
    factory = _factory()
    requests = [
        factory.message("execute_request", content.ExecuteRequest(code="")) for _ in range(count)
    ]
    reply = content.ExecuteReply(status="ok", execution_count=1)
    arriving: list[tuple[Message, ChannelName]] = [
        (factory.message("execute_reply", reply, parent=request), "shell") for request in requests
    ]
    arriving += [
        (factory.message("status", content.Status(state), parent=request), "iopub")
        for request in requests
        for state in ("busy", "idle")
    ]

    def work() -> object:
        conversation = Conversation("kernel")
        for request in requests:
            conversation.sent(request, "shell")
        for message, channel in arriving:
            conversation.received(message, channel)
        return conversation

    return work


def _subscribers(count: int) -> Callable[[], object]:
    """Send ten messages of a kernel to *count* clients, which acknowledge each one."""
    messages = [_factory().message("stream", Stream("stdout", "text")) for _ in range(10)]

    def work() -> object:
        log = ReplayLog(_ROOMY, 60.0)
        cursors = [log.join(f"session-{number}") for number in range(count)]
        for message in messages:
            log.append(message, "iopub")
            for cursor in cursors:
                log.next(cursor)
                log.advance(cursor)
                log.acknowledge(cursor, cursor.sent)
        for cursor in cursors:
            log.leave(cursor, 0.0)
        return log

    return work


def _sessions(count: int) -> Callable[[], object]:
    """Open *count* sessions of one user, look each of them up, and list them."""

    def work() -> object:
        table = SessionTable(lambda user, kernel_id: True)
        for number in range(count):
            path = f"{number}.ipynb"
            table.of_path("user", path)
            table.total_without("user", "")
            table.add("user", Session(str(number), path, path, "notebook", str(number)))
        for number in range(count):
            table.find("user", str(number))
        return table.of_user("user")

    return work


# By name: the kind of item, and the work on it.
WORK: Mapping[str, tuple[str, Prepare]] = {
    "displays": ("displays, each updated", lambda count: _page(count, 1, count)),
    "one_display": ("outputs of one display, and updates", lambda count: _page(1, 1, count)),
    "pages": ("executions that show one display", lambda count: _page(1, count, count)),
    "alternating": ("displays and updates in turn, read at once", _alternating),
    "text": ("pieces of text", _text),
    "notebook": ("outputs of a notebook's cell", partial(_recorded, _cell_contents)),
    "widgets": ("Output widgets", partial(_recorded, _widget_contents)),
    "comms": ("comms", _comms),
    "names": ("names in a JSON object", _names),
    "depth": ("levels of JSON", _depth),
    "parts": ("identities and buffers of a message", _parts),
    "long_name": ("characters of an unknown kernel type", _long_name),
    "refused": ("refused messages", _refused),
    "observed": ("messages for a slow observer", _observed),
    "history": ("lines of history", _history),
    "requests": ("executions sent at once", _requests),
    "sessions": ("sessions of one user", _sessions),
    "subscribers": ("clients of one kernel", _subscribers),
}


def _milliseconds(prepare: Prepare, times: int, lab: Lab) -> float:
    work = prepare(lab.size(_SIZE) * times)
    gc.collect()
    gc.disable()  # collections depend on all other objects in the process
    try:
        began = time.process_time()
        work()
        return (time.process_time() - began) * 1e3
    finally:
        gc.enable()


QUESTIONS = [
    Question(
        name=f"growth.{name}",
        title=f"Growth: n and 4 n {title}, n = {_SIZE.full:,}",
        unit="ms of CPU time",
        contenders=[
            Contender("kernelproto, n", partial(_milliseconds, prepare, 1)),
            Contender("kernelproto, 4 n", partial(_milliseconds, prepare, 4)),
        ],
        goals=[Goal(subject="kernelproto, 4 n", baseline="kernelproto, n", limit=5)],
    )
    for name, (title, prepare) in WORK.items()
]
