from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.conversation import Conversation, Event, Origin
from kernelproto.wire.message import Header, Message
from kernelproto.wire.request import Request
from kernelproto.wire.transitions import (
    REPLY_AND_IDLE,
    REPLY_IDLE_AND_SILENCE,
    REPLY_ONLY,
    Signal,
    State,
)

US, THEM, KERNEL = "our session", "their session", "kernel session"

numbers = itertools.count(1)


def message(
    msg_type: str,
    content: Mapping[str, Any] | None = None,
    *,
    parent: Message | None = None,
    session: str = KERNEL,
) -> Message:
    header = Header(msg_id=f"{session} {next(numbers)}", msg_type=msg_type, session=session)
    return Message.build(header, content or {}, parent=parent)


def request(msg_type: str = "execute_request", session: str = US) -> Message:
    return message(msg_type, session=session)


def reply_to(parent: Message, status: str = "ok") -> Message:
    msg_type = parent.msg_type.replace("_request", "_reply")
    return message(msg_type, {"status": status}, parent=parent)


def status(state: str, parent: Message | None = None) -> Message:
    return message("status", {"execution_state": state}, parent=parent)


def unreadable(msg_type: str, parent: Message | None = None) -> Message:
    """Return a message with content that is not JSON."""
    whole = message(msg_type, parent=parent)
    return Message(whole.header, whole.parent_header, [*whole.parts[:3], b"garbage"])


def arrival(signal: Signal, parent: Message) -> tuple[Message, ChannelName]:
    """Return a message that means *signal* to its parent, and the channel that it comes on."""
    match signal:
        case Signal.REPLY:
            return reply_to(parent), "shell"
        case Signal.ABORT:
            return reply_to(parent, "aborted"), "shell"
        case Signal.INPUT:
            return message("input_request", parent=parent), "stdin"
        case Signal.OUTPUT:
            return message("stream", parent=parent), "iopub"
        case Signal.OTHER:
            return message("comm_msg", {"comm_id": "c"}, parent=parent), "iopub"
        case _:
            return status(signal.value, parent), "iopub"


SIGNALS = (
    "busy",
    "idle",
    "output",
    "input",
    "reply",
    "abort",
    "starting",
    "other",
    "later_reply",
    "later_done",
)

# The new state of a request for each signal and state; a dot means no change.
TABLES = {
    "execute_request": """
        state     busy idle     output input reply    abort starting other later_reply later_done
        sent      .    idled    .      .     replied  done  .        .     overtaken   overtaken
        overtaken sent idled    sent   sent  replied  done  .        .     .           .
        replied   .    done     .      .     .        .     .        .     .           done
        idled     .    .        .      .     done     done  .        .     lost        lost
        done      .    .        .      .     .        .     .        .     .           .
    """,
    "execute_request of a kernel whose outputs trail": """
        state     busy idle     output input reply    abort starting other later_reply later_done
        sent      .    idled    .      .     replied  done  .        .     overtaken   overtaken
        overtaken sent idled    sent   sent  replied  done  .        .     .           .
        replied   .    trailing .      .     .        .     .        .     .           done
        idled     .    .        .      .     trailing done  .        .     lost        lost
        trailing  .    .        .      .     .        .     .        .     .           .
        done      .    .        .      .     .        .     .        .     .           .
    """,
    "inspect_request": """
        state     busy idle     output input reply    abort starting other later_reply later_done
        sent      .    .        .      .     done     done  .        .     .           .
        done      .    .        .      .     .        .     .        .     .           .
    """,
}

# How a request gets into each state.
PATHS = {
    State.SENT: (),
    State.OVERTAKEN: (Signal.LATER_REPLY,),
    State.REPLIED: (Signal.REPLY,),
    State.IDLED: (Signal.IDLE,),
    State.TRAILING: (Signal.REPLY, Signal.IDLE),
    State.DONE: (Signal.ABORT,),
}


# Two come from a later execution: its reply, or its reply and its "idle".
LATER = {Signal.LATER_REPLY: (Signal.REPLY,), Signal.LATER_DONE: (Signal.IDLE, Signal.REPLY)}


MEANINGS = [signal for signal in Signal if signal not in LATER]


def receive(conversation: Conversation, signal: Signal, parent: Message) -> Event:
    """Let a message arrive that means *signal* to the request; return the last event."""
    if signal not in LATER:
        return conversation.received(*arrival(signal, parent))
    later = request()
    conversation.sent(later, "shell")
    events = [conversation.received(*arrival(step, later)) for step in LATER[signal]]
    conversation.forget(later.msg_id)
    return events[-1]


def rows() -> list[Any]:
    found = []
    for request_kind, table in TABLES.items():
        head, *lines = [line.split() for line in table.strip().splitlines()]
        assert tuple(head[1:]) == SIGNALS == tuple(Signal)
        for before, *after in lines:
            for signal, then in zip(SIGNALS, after, strict=True):
                after_it = before if then == "." else then
                row = (request_kind, State(before), Signal(signal), State(after_it))
                found.append(pytest.param(*row, id=f"{request_kind}-{before}-{signal}"))
    return found


@pytest.mark.parametrize(("request_kind", "before", "signal", "then"), rows())
def test_every_signal_in_every_state(request_kind, before, signal, then) -> None:
    conversation = Conversation(US)
    msg_type, _, trait = request_kind.partition(" ")
    conversation.trailing_seconds = 1.0 if trait else 0.0
    asked = request(msg_type)
    opened = conversation.sent(asked, "shell")
    assert opened is not None
    for step in PATHS[before]:
        receive(conversation, step, asked)
    assert opened.state is before
    event = receive(conversation, signal, asked)
    assert opened.state is then
    assert (opened in conversation.open_requests()) == (not opened.over)
    if signal in LATER:
        assert event.ended == ((opened,) if opened.over and before is not State.DONE else ())
    else:
        assert event.signal is signal
        over = before is State.DONE
        assert event.origin is (Origin.LATE if over else Origin.OWN)
        assert event.request is (None if over else opened)


@pytest.mark.parametrize("transitions", [REPLY_AND_IDLE, REPLY_IDLE_AND_SILENCE, REPLY_ONLY])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("signal", Signal)
def test_pair_that_is_not_in_the_table_changes_nothing(transitions, state, signal) -> None:
    asked = Request(request(), "shell", transitions)
    asked.state = state
    asked.advance(signal)
    if signal not in transitions.get(state, {}):
        assert asked.state is state


def test_no_table_leads_out_of_done() -> None:
    assert State.DONE not in REPLY_AND_IDLE
    assert State.DONE not in REPLY_IDLE_AND_SILENCE
    assert State.DONE not in REPLY_ONLY


@pytest.mark.parametrize(
    "msg_type",
    [
        "execute_request",
        "inspect_request",
        "complete_request",
        "history_request",
        "is_complete_request",
        "connect_request",
        "comm_info_request",
        "kernel_info_request",
        "shutdown_request",
        "interrupt_request",
        "create_subshell_request",
        "delete_subshell_request",
        "list_subshell_request",
        "usage_request",
        "debug_request",
        "vendor_request",
    ],
)
@pytest.mark.parametrize("channel", ["shell", "control"])
def test_every_request_ends_with_its_reply_on_either_channel(msg_type, channel) -> None:
    conversation = Conversation(US)
    asked = request(msg_type)
    opened = conversation.sent(asked, channel)
    assert (opened.message, opened.channel, opened.state) == (asked, channel, State.SENT)
    assert opened.reply is None
    conversation.received(status("busy", asked), "iopub")
    conversation.received(status("idle", asked), "iopub")
    assert len(conversation) == 1
    reply = reply_to(asked)
    event = conversation.received(reply, channel)
    assert event == Event(Signal.REPLY, Origin.OWN, reply, opened)
    assert (opened.reply, opened.state) == (reply, State.DONE)
    assert len(conversation) == 0


@pytest.mark.parametrize("msg_type", ["comm_open", "comm_msg", "comm_close", "input_reply"])
def test_other_messages_than_requests_expect_no_reply(msg_type) -> None:
    conversation = Conversation(US)
    assert conversation.sent(request(msg_type), "shell") is None
    assert len(conversation) == 0


@pytest.mark.parametrize(
    ("msg_type", "signal"),
    [
        ("stream", Signal.OUTPUT),
        ("display_data", Signal.OUTPUT),
        ("update_display_data", Signal.OUTPUT),
        ("execute_result", Signal.OUTPUT),
        ("error", Signal.OUTPUT),
        ("clear_output", Signal.OUTPUT),
        ("execute_input", Signal.OTHER),
        ("iopub_welcome", Signal.OTHER),
        ("comm_open", Signal.OTHER),
        ("comm_msg", Signal.OTHER),
        ("debug_event", Signal.OTHER),
        ("shutdown_reply", Signal.OTHER),
        ("execute_reply", Signal.OTHER),
        ("input_request", Signal.OTHER),
        ("vendor_event", Signal.OTHER),
    ],
)
def test_meaning_on_iopub(msg_type, signal) -> None:
    assert Conversation(US).received(message(msg_type), "iopub").signal is signal


@pytest.mark.parametrize(
    ("msg_type", "channel", "signal"),
    [
        ("input_request", "stdin", Signal.INPUT),
        ("input_request", "shell", Signal.OTHER),
        ("input_reply", "stdin", Signal.OTHER),
        ("execute_reply", "stdin", Signal.OTHER),
        ("execute_reply", "shell", Signal.REPLY),
        ("interrupt_reply", "control", Signal.REPLY),
        ("debug_reply", "control", Signal.REPLY),
        ("vendor_reply", "shell", Signal.REPLY),
        ("execute_request", "shell", Signal.OTHER),  # our own, sent back to us
        ("stream", "shell", Signal.OTHER),
        ("status", "shell", Signal.OTHER),
        ("status", "control", Signal.OTHER),
    ],
)
def test_meaning_on_the_other_channels(msg_type, channel, signal) -> None:
    assert Conversation(US).received(message(msg_type), channel).signal is signal


@pytest.mark.parametrize(
    ("state", "signal"),
    [
        ("busy", Signal.BUSY),
        ("idle", Signal.IDLE),
        ("starting", Signal.STARTING),
        ("restarting", Signal.OTHER),
        ("", Signal.OTHER),
    ],
)
def test_meaning_of_a_status(state, signal) -> None:
    assert Conversation(US).received(status(state), "iopub").signal is signal


@pytest.mark.parametrize("answer", ["aborted", "abort"])
def test_both_spellings_of_aborted(answer) -> None:
    conversation = Conversation(US)
    asked = request()
    conversation.sent(asked, "shell")
    event = conversation.received(reply_to(asked, answer), "shell")
    assert (event.signal, event.request.state) == (Signal.ABORT, State.DONE)


@pytest.mark.parametrize("answer", ["aborted", "abort"])
def test_execution_is_not_over_before_idle(answer) -> None:
    """The code was interrupted, and its outputs may still be under way."""
    conversation = Conversation(US)
    asked = request()
    conversation.sent(asked, "shell")
    reply = message("execute_reply", {"status": answer, "execution_count": 1}, parent=asked)
    event = conversation.received(reply, "shell")
    assert (event.signal, event.request.state) == (Signal.REPLY, State.REPLIED)


@pytest.mark.parametrize("order", [*itertools.permutations(["reply", "idle", "stream"])])
def test_execution_is_over_with_reply_and_idle_in_any_order(order) -> None:
    conversation = Conversation(US)
    asked = request()
    arrivals = {
        "reply": (reply_to(asked), "shell"),
        "idle": (status("idle", asked), "iopub"),
        "stream": (message("stream", parent=asked), "iopub"),
    }
    opened = conversation.sent(asked, "shell")
    seen = set()
    for name in order:
        event = conversation.received(*arrivals[name])
        assert event.origin is (Origin.LATE if seen >= {"reply", "idle"} else Origin.OWN)
        seen.add(name)
        assert (opened.state is State.DONE) == (seen >= {"reply", "idle"})
        assert (opened.reply is not None) == ("reply" in seen)


def test_late_output_belongs_to_no_open_request() -> None:
    conversation = Conversation(US)
    asked = request()
    conversation.sent(asked, "shell")
    conversation.received(reply_to(asked), "shell")
    conversation.received(status("idle", asked), "iopub")
    late = message("stream", parent=asked)
    assert conversation.received(late, "iopub") == Event(Signal.OUTPUT, Origin.LATE, late)


def test_trailing_output_belongs_to_its_execution_until_that_is_forgotten() -> None:
    conversation = Conversation(US)
    conversation.trailing_seconds = 1.0
    asked, plain = request(), request("inspect_request")
    opened = conversation.sent(asked, "shell")
    conversation.sent(plain, "shell")
    for arriving, channel in [
        (reply_to(asked), "shell"),
        (status("idle", asked), "iopub"),
        (reply_to(plain), "shell"),
    ]:
        conversation.received(arriving, channel)
    assert (opened.state, opened.trailing_seconds) == (State.TRAILING, 1.0)
    assert len(conversation) == 1
    trailing = message("stream", parent=asked)
    assert conversation.received(trailing, "iopub").request is opened
    conversation.forget(asked.msg_id)
    assert conversation.received(trailing, "iopub").origin is Origin.LATE


def test_first_reply_counts() -> None:
    conversation = Conversation(US)
    asked = request()
    opened = conversation.sent(asked, "shell")
    first, second = reply_to(asked), reply_to(asked, "aborted")
    conversation.received(first, "shell")
    event = conversation.received(second, "control")
    assert (event.signal, event.origin, event.message) == (Signal.ABORT, Origin.OWN, second)
    assert (opened.reply, opened.state) == (first, State.REPLIED)
    conversation.received(status("idle", asked), "iopub")
    assert conversation.received(reply_to(asked), "shell").origin is Origin.LATE
    assert opened.reply is first


def test_reply_that_cannot_be_read_still_ends_its_request() -> None:
    conversation = Conversation(US)
    asked = request("kernel_info_request")
    opened = conversation.sent(asked, "shell")
    event = conversation.received(unreadable("kernel_info_reply", asked), "shell")
    assert (event.signal, event.request, opened.state) == (Signal.REPLY, opened, State.DONE)
    with pytest.raises(MalformedMessage):
        _ = opened.reply.content


def test_status_that_cannot_be_read_is_refused_and_changes_nothing() -> None:
    conversation = Conversation(US)
    asked = request()
    opened = conversation.sent(asked, "shell")
    conversation.received(status("busy", asked), "iopub")
    with pytest.raises(MalformedMessage):
        conversation.received(unreadable("status", asked), "iopub")
    assert opened.state is State.SENT
    assert conversation.kernel_busy


def test_output_is_not_read_to_be_sorted() -> None:
    conversation = Conversation(US)
    asked = request()
    opened = conversation.sent(asked, "shell")
    event = conversation.received(unreadable("stream", asked), "iopub")
    assert (event.signal, event.request) == (Signal.OUTPUT, opened)


def test_requests_do_not_get_mixed_up() -> None:
    conversation = Conversation(US)
    one, two = request(), request("inspect_request")
    first, second = conversation.sent(one, "shell"), conversation.sent(two, "control")
    assert conversation.received(reply_to(two), "control").request is second
    assert conversation.received(message("stream", parent=one), "iopub").request is first
    assert (first.state, second.state) == (State.SENT, State.DONE)


@pytest.mark.parametrize("signal", MEANINGS)
@pytest.mark.parametrize(
    ("session", "origin"),
    [
        pytest.param(US, Origin.LATE, id="ours"),
        pytest.param(THEM, Origin.FOREIGN, id="another client's"),
        pytest.param("", Origin.FOREIGN, id="nobody's"),
    ],
)
def test_parent_that_is_not_known(signal, session, origin) -> None:
    arriving, channel = arrival(signal, request(session=session))
    assert Conversation(US).received(arriving, channel) == Event(signal, origin, arriving)


def test_large_reply_to_another_client_is_not_read() -> None:
    arriving, channel = arrival(Signal.ABORT, request(session=THEM))
    large = b'{"status": "aborted", "values": [' + b"1.25," * 100_000 + b"1]}"
    arriving.parts = (*arriving.parts[:3], large)
    assert Conversation(US).received(arriving, channel).signal is Signal.REPLY
    assert not arriving.is_read


@pytest.mark.parametrize(
    ("arriving", "signal"),
    [
        pytest.param(status("starting"), Signal.STARTING, id="starting"),
        pytest.param(status("idle"), Signal.IDLE, id="idle"),
        pytest.param(message("iopub_welcome"), Signal.OTHER, id="welcome"),
        pytest.param(message("stream"), Signal.OUTPUT, id="output"),
    ],
)
def test_message_without_parent_is_the_kernels_own(arriving, signal) -> None:
    assert Conversation(US).received(arriving, "iopub") == Event(signal, Origin.KERNEL, arriving)


def test_two_clients_of_one_kernel() -> None:
    ours, theirs = Conversation(US), Conversation(THEM)
    asked = request(session=US)
    ours.sent(asked, "shell")
    for arriving in (status("busy", asked), message("stream", parent=asked)):
        assert ours.received(arriving, "iopub").origin is Origin.OWN
        assert theirs.received(arriving, "iopub").origin is Origin.FOREIGN
    assert theirs.kernel_busy
    assert len(theirs) == 0


def test_forgotten_request_is_late_from_then_on() -> None:
    conversation = Conversation(US)
    asked, kept = request(), request()
    opened = conversation.sent(asked, "shell")
    conversation.sent(kept, "shell")
    conversation.forget(asked.msg_id)
    conversation.forget(asked.msg_id)
    conversation.forget("never sent")
    assert len(conversation) == 1
    assert conversation.received(reply_to(asked), "shell").origin is Origin.LATE
    assert (opened.state, opened.reply) == (State.SENT, None)
    assert conversation.received(reply_to(kept), "shell").origin is Origin.OWN


# Lost replies.


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(US)


def send(
    conversation: Conversation,
    msg_type: str = "execute_request",
    *,
    channel: ChannelName = "shell",
    subshell_id: str | None = None,
) -> Request:
    header = Header(
        msg_id=f"ours {next(numbers)}", msg_type=msg_type, session=US, subshell_id=subshell_id
    )
    opened = conversation.sent(Message.build(header, {}), channel)
    assert opened is not None
    return opened


def hear(conversation: Conversation, request: Request, *signals: Signal) -> Event:
    return [conversation.received(*arrival(signal, request.message)) for signal in signals][-1]


@pytest.mark.parametrize("msg_type", ["execute_request", "complete_request"])
@pytest.mark.parametrize("busy", [(), (Signal.BUSY,)], ids=["unseen", "busy"])
def test_reply_to_a_later_request_proves_the_loss_after_idle(conversation, msg_type, busy) -> None:
    first, second, later = (send(conversation), send(conversation), send(conversation, msg_type))
    for lost in first, second:
        hear(conversation, lost, Signal.BUSY, Signal.IDLE)
    event = hear(conversation, later, *busy, Signal.REPLY)
    assert event.ended == (first, second)
    assert first.state is second.state is State.LOST
    assert hear(conversation, first, Signal.REPLY).origin is Origin.LATE


def test_request_that_was_begun_before_idle_proves_nothing(conversation) -> None:
    """The kernel serves the two side by side, and the reply may be right behind."""
    slow, quick = send(conversation), send(conversation, "complete_request")
    hear(conversation, slow, Signal.BUSY)
    hear(conversation, quick, Signal.BUSY)
    hear(conversation, slow, Signal.IDLE)
    assert hear(conversation, quick, Signal.REPLY).ended == ()
    assert hear(conversation, slow, Signal.REPLY).request is slow
    assert slow.state is State.DONE


@pytest.mark.parametrize(
    "other",
    [{"channel": "control"}, {"subshell_id": "a subshell"}],
    ids=["control", "another subshell"],
)
def test_another_line_proves_nothing(conversation, other) -> None:
    execution, later = send(conversation), send(conversation, **other)
    hear(conversation, execution, Signal.IDLE)
    assert hear(conversation, later, Signal.REPLY, Signal.IDLE).ended == ()
    assert execution.state is State.IDLED


def test_aborted_reply_proves_nothing(conversation) -> None:
    """Some kernels abort queued executions before they reply to the failed one."""
    failed, replied, queued = send(conversation), send(conversation), send(conversation)
    hear(conversation, failed, Signal.IDLE)
    assert hear(conversation, queued, Signal.IDLE, Signal.ABORT).ended == ()
    assert failed.state is State.IDLED
    hear(conversation, failed, Signal.REPLY)
    hear(conversation, replied, Signal.REPLY)
    queued = send(conversation)
    assert hear(conversation, queued, Signal.IDLE, Signal.ABORT).ended == ()
    assert replied.state is State.REPLIED


def test_running_execution_outlasts_the_replies_to_other_requests(conversation) -> None:
    execution, complete = send(conversation), send(conversation, "complete_request")
    hear(conversation, execution, Signal.BUSY)
    hear(conversation, complete, Signal.BUSY, Signal.REPLY, Signal.IDLE)
    assert execution.state is State.SENT


@pytest.mark.parametrize("begun", [(), (Signal.BUSY,)], ids=["never begun", "busy"])
def test_execution_that_was_overtaken_ends_when_it_is_given_up(conversation, begun) -> None:
    lost, later = send(conversation), send(conversation)
    if begun:
        hear(conversation, lost, *begun)
    assert hear(conversation, later, Signal.BUSY, Signal.REPLY, Signal.IDLE).ended == ()
    assert lost.state is State.OVERTAKEN
    conversation.give_up(lost)
    assert (lost.state, lost.over) == (State.LOST, True)
    assert list(conversation.open_requests()) == []
    assert not conversation.kernel_busy


def test_reply_out_of_order_shows_that_executions_run_side_by_side(conversation) -> None:
    slow, quick = send(conversation), send(conversation)
    hear(conversation, quick, Signal.REPLY, Signal.IDLE)
    assert (slow.state, conversation.side_by_side) == (State.OVERTAKEN, False)
    hear(conversation, slow, Signal.OUTPUT)
    assert slow.state is State.SENT
    hear(conversation, slow, Signal.REPLY, Signal.IDLE)
    assert conversation.side_by_side
    slow, quick = send(conversation), send(conversation)
    hear(conversation, quick, Signal.REPLY, Signal.IDLE)
    assert slow.state is State.SENT
    hear(conversation, slow, Signal.REPLY)
    quick = send(conversation)
    assert hear(conversation, quick, Signal.REPLY, Signal.IDLE).ended == ()
    assert slow.state is State.REPLIED


def test_later_execution_proves_that_idle_is_lost(conversation) -> None:
    lost, later = send(conversation), send(conversation)
    hear(conversation, lost, Signal.BUSY, Signal.REPLY)
    assert hear(conversation, later, Signal.BUSY, Signal.REPLY).ended == ()
    assert hear(conversation, later, Signal.IDLE).ended == (lost,)
    assert (lost.state, lost.idle_at) == (State.DONE, None)
    assert not conversation.kernel_busy


# Whether the kernel is busy.


def test_kernel_is_busy_until_it_is_idle_for_all_clients() -> None:
    conversation = Conversation(US)
    ours, theirs, unheard = request(), request(session=THEM), request(session=THEM)
    conversation.sent(ours, "shell")
    seen = [conversation.kernel_busy]
    for state, parent in [
        ("busy", ours),
        ("busy", ours),
        ("busy", theirs),
        ("idle", ours),
        ("idle", unheard),
        ("idle", theirs),
        ("idle", theirs),
        ("busy", None),
        ("idle", None),
        ("busy", theirs),
        ("starting", None),
    ]:
        conversation.received(status(state, parent), "iopub")
        seen.append(conversation.kernel_busy)
    assert seen == [False, True, True, True, True, True, False, False, True, False, True, False]


@pytest.mark.parametrize("signal", [Signal.BUSY, Signal.REPLY])
def test_kernel_that_is_assumed_to_be_busy_is_so_until_it_comes_to_a_request(
    conversation, signal
) -> None:
    asked = send(conversation, "kernel_info_request")
    conversation.forget(asked.message.msg_id)
    conversation.assume_busy(asked.message.msg_id)
    theirs = request(session=THEM)
    conversation.received(status("idle", theirs), "iopub")
    assert conversation.kernel_busy
    hear(conversation, asked, signal, Signal.IDLE)
    assert not conversation.kernel_busy


def test_kernel_that_starts_again_is_not_assumed_to_be_busy(conversation) -> None:
    conversation.assume_busy("ours")
    conversation.received(status("starting"), "iopub")
    assert not conversation.kernel_busy


def test_kernel_serves_others_while_it_is_busy_with_their_requests(conversation) -> None:
    ours, theirs = request(), request(session=THEM)
    seen = []
    for state, parent in [
        ("busy", None),
        ("busy", ours),
        ("busy", theirs),
        ("idle", ours),
        ("idle", theirs),
    ]:
        conversation.received(status(state, parent), "iopub")
        seen.append(conversation.serves_others)
    assert seen == [False, False, True, True, False]
    conversation.assume_busy("ours")
    assert conversation.serves_others


def test_forgetting_a_request_makes_no_kernel_idle() -> None:
    conversation = Conversation(US)
    asked = request()
    conversation.sent(asked, "shell")
    conversation.received(status("busy", asked), "iopub")
    conversation.forget(asked.msg_id)
    assert conversation.kernel_busy
    conversation.received(status("idle", asked), "iopub")
    assert not conversation.kernel_busy


def test_requests_that_never_end_are_remembered_up_to_a_bound() -> None:
    conversation = Conversation(US)
    endless = [request(session=THEM) for _ in range(2000)]
    for parent in endless:
        conversation.received(status("busy", parent), "iopub")
    for parent in endless[-1023:]:
        conversation.received(status("idle", parent), "iopub")
    assert conversation.kernel_busy
    conversation.received(status("idle", endless[-1024]), "iopub")
    assert not conversation.kernel_busy  # the older ones are forgotten


# Against a model without states: only the messages of each request.


class Asked:
    """A request that was sent, with all that has arrived for it until it was over."""

    def __init__(self, sent: Message, session: str, channel: ChannelName) -> None:
        self.message = sent
        self.ours = session == US
        self.channel = channel
        self.open = self.ours
        self.opened: Request | None = None
        self.heard: dict[Signal, int] = {}  # the number of the first arrival of each kind
        self.first_answer: Signal | None = None
        self.overtaken = False
        self.ended: State | None = None  # by a later request

    @property
    def is_execution(self) -> bool:
        return self.message.msg_type == "execute_request"

    @property
    def over(self) -> bool:
        if self.first_answer is None:
            return False
        return not self.is_execution or self.first_answer is Signal.ABORT or self.idled

    @property
    def idled(self) -> bool:
        return Signal.IDLE in self.heard

    def hear(self, signal: Signal, number: int) -> None:
        self.heard.setdefault(signal, number)
        if signal in (Signal.REPLY, Signal.ABORT) and self.first_answer is None:
            self.first_answer = signal

    def began_after_the_end_of(self, earlier: Asked) -> bool:
        return self.heard.get(Signal.BUSY, math.inf) > earlier.heard[Signal.IDLE]


class ConversationMachine(RuleBasedStateMachine):
    """Sends and receives whatever hypothesis likes and compares the conversation to the model."""

    requests: Bundle[Asked] = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation(US)
        self.all: list[Asked] = []
        self.arrivals = 0
        self.side_by_side = False
        self.busy_with: set[str] = set()

    @rule(
        target=requests,
        msg_type=st.sampled_from(["execute_request", "inspect_request"]),
        session=st.sampled_from([US, US, THEM]),
        channel=st.sampled_from(["shell", "control"]),
    )
    def send(self, msg_type: str, session: str, channel: ChannelName) -> Asked:
        asked = Asked(request(msg_type, session), session, channel)
        if asked.ours:
            asked.opened = self.conversation.sent(asked.message, channel)
        self.all.append(asked)
        return asked

    @rule(asked=requests, signal=st.sampled_from(MEANINGS))
    def receive(self, asked: Asked, signal: Signal) -> None:
        arriving, channel = arrival(signal, asked.message)
        event = self.conversation.received(arriving, channel)
        assert (event.signal, event.message) == (signal, arriving)
        self.arrivals += 1
        if asked.open:
            answered = asked.first_answer is not None
            asked.hear(signal, self.arrivals)
            replies = signal is Signal.REPLY and not answered
            self.side_by_side |= replies and asked.overtaken
            ended = [
                earlier for earlier in self.before(asked) if self.ends(earlier, asked, replies)
            ]
            for earlier in ended:
                earlier.open = False
                earlier.ended = State.DONE if earlier.first_answer else State.LOST
                self.busy_with.discard(earlier.message.msg_id)
            asked.open = not asked.over
            assert event.ended == tuple(earlier.opened for earlier in ended)
            assert (event.origin, event.request) == (Origin.OWN, asked.opened)
        else:
            assert event.origin is (Origin.LATE if asked.ours else Origin.FOREIGN)
            assert event.request is None
        if signal is Signal.BUSY:
            self.busy_with.add(asked.message.msg_id)
        elif signal is Signal.IDLE:
            self.busy_with.discard(asked.message.msg_id)
        elif signal is Signal.STARTING:
            self.busy_with.clear()

    def before(self, asked: Asked) -> list[Asked]:
        earlier = itertools.takewhile(lambda other: other is not asked, self.all)
        return [one for one in earlier if one.open and one.channel == asked.channel]

    def ends(self, earlier: Asked, later: Asked, replies: bool) -> bool:
        """Return whether the last message of *later* ends *earlier*."""
        if not earlier.is_execution:
            return False
        if earlier.first_answer is not None:
            done = later.is_execution and later.over and later.first_answer is Signal.REPLY
            return done and not self.side_by_side
        if not replies:
            return False
        if earlier.idled:
            return later.began_after_the_end_of(earlier)
        earlier.overtaken |= later.is_execution and not self.side_by_side
        return False

    @rule(state=st.sampled_from(["starting", "busy", "idle"]))
    def receive_from_the_kernel_itself(self, state: str) -> None:
        event = self.conversation.received(status(state), "iopub")
        assert (event.origin, event.request) == (Origin.KERNEL, None)
        if state == "busy":
            self.busy_with.add("")
        elif state == "idle":
            self.busy_with.discard("")
        else:
            self.busy_with.clear()

    @rule(asked=requests)
    def forget(self, asked: Asked) -> None:
        self.conversation.forget(asked.message.msg_id)
        asked.open = False

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.conversation) == sum(asked.open for asked in self.all)
        assert self.conversation.kernel_busy == bool(self.busy_with)
        for asked in self.all:
            if asked.opened is not None:
                assert asked.opened.over == (asked.over or asked.ended is not None)
                assert asked.ended in (None, asked.opened.state)
                assert (asked.opened.reply is not None) == (asked.first_answer is not None)


TestConversationMachine = ConversationMachine.TestCase
TestConversationMachine.settings = settings(stateful_step_count=30)
