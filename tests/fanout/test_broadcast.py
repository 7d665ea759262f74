"""One kernel's messages for several clients, without a server. See tests/server for deaths."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from kernelproto import ClientClosed, Kernel, KernelDied, KernelFinder, run_kernel
from kernelproto.fanout.broadcast import Broadcast
from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.fanout.handover import Handover
from kernelproto.fanout.replay_log import Entry
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.fanout.traffic import Request
from kernelproto.testing import Exchange, FakeKernel, FakeProvider
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Status, Stream
from kernelproto.wire.message import Header, Message

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


def prepare(fake: FakeKernel) -> None:
    async def say(exchange: Exchange) -> None:
        exchange.stream(exchange.code.removeprefix("say "))

    fake.on_execute(lambda code: code.startswith("say "), say)


@asynccontextmanager
async def running(limit: int = 2**20) -> AsyncGenerator[tuple[FakeKernel, Kernel, Broadcasts]]:
    """Run a fake kernel with its broadcasts."""
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            FakeProvider(prepare) as provider,
            run_kernel("fake/kernel", finder=KernelFinder([provider])) as kernel,
        ):
            yield provider.kernels[0], kernel, Broadcasts(limit=limit, seconds=GUARD_SECONDS)


async def read_texts(subscriber: Subscriber, count: int) -> list[str]:
    """Read until *count* outputs have come; return their texts."""
    texts: list[str] = []
    while len(texts) < count:
        message = (await subscriber.next()).message
        subscriber.advance()
        if message.msg_type == "stream":
            texts.append(message.content.text)
    return texts


async def test_each_subscriber_reads_at_its_own_pace() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        assert broadcasts.of(kernel) is broadcast
        with broadcast.join("a", None) as quick, broadcast.join("b", None) as slow:
            for text in "12":
                await kernel.execute(f"say {text}")
                assert await read_texts(quick, 1) == [text]
            assert await slow.next() == await slow.next()  # the same one until advance
            assert await read_texts(slow, 2) == ["1", "2"]
            assert not slow.cut_off.is_set()


async def test_subscriber_waits_for_the_next_message() -> None:
    async with running() as (_, kernel, broadcasts), anyio.create_task_group() as tasks:
        with broadcasts.of(kernel).join("a", None) as subscriber:
            read: list[str] = []

            async def read_one() -> None:
                read.extend(await read_texts(subscriber, 1))

            tasks.start_soon(read_one)
            await anyio.wait_all_tasks_blocked()
            assert read == []
            await kernel.execute("say x")
            await anyio.wait_all_tasks_blocked()
            assert read == ["x"]


async def test_message_is_sent_at_once_while_its_subscriber_waits() -> None:
    """A refused message, and each after a refusal until the subscriber waits again, is returned."""
    async with running() as (_, kernel, broadcasts), anyio.create_task_group() as tasks:
        with broadcasts.of(kernel).join("a", None) as subscriber:
            at_once: list[str] = []
            returned: list[str] = []

            def send(entry: Entry) -> bool:
                if entry.message.msg_type == "stream":
                    text = entry.message.content.text
                    if text == "fails":
                        raise RuntimeError(text)
                    if text == "refused":
                        return False
                    at_once.append(text)
                return True

            async def read() -> None:
                while True:
                    message = (await subscriber.next(send)).message
                    subscriber.advance()
                    if message.msg_type == "stream":
                        returned.append(message.content.text)

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            for text in ("1", "refused", "2", "fails", "3"):
                await kernel.execute(f"say {text}")
                await anyio.wait_all_tasks_blocked()
            assert (at_once, returned) == (["1", "2", "3"], ["refused", "fails"])
            tasks.cancel_scope.cancel()


async def test_message_after_the_wait_was_cancelled_is_not_sent_at_once() -> None:
    async with running() as (_, kernel, broadcasts), anyio.create_task_group() as tasks:
        with broadcasts.of(kernel).join("a", None) as subscriber:
            sent: list[Entry] = []
            tasks.start_soon(subscriber.next, sent.append)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                await kernel.execute("say x")
                assert sent == []
                assert await read_texts(subscriber, 1) == ["x"]


async def test_slow_subscriber_is_cut_off() -> None:
    async with running(limit=10_000) as (_, kernel, broadcasts):
        with broadcasts.of(kernel).join("a", None) as subscriber:
            await kernel.execute(f"say {'x' * 10_000}")
            await kernel.execute("say y")
            assert subscriber.cut_off.is_set()
            assert "too slow" in subscriber.reason


async def test_subscriber_with_the_same_session_replaces_the_first() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as first, broadcast.join("a", None) as second:
            assert (first.cut_off.is_set(), second.cut_off.is_set()) == (True, False)
            assert "session" in first.reason


async def test_gap_notice_has_the_parent_of_the_next_output() -> None:
    async with running(limit=20_000) as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as subscriber:
            assert subscriber.gap_notice() is None
        await kernel.execute(f"say {'x' * 20_000}")
        await kernel.execute("say y")
        with broadcast.join("a", None) as subscriber:
            notice = subscriber.gap_notice()
            assert notice is not None
            assert notice.content.text.startswith("[outputs are missing: the server deleted up to ")
            assert notice.parent_header == (await subscriber.next()).message.parent_header
            subscriber.acknowledge(0)
            assert subscriber.gap_notice() is None


async def test_gap_of_an_unknown_size_without_a_next_output() -> None:
    async with running() as (_, kernel, broadcasts):
        with broadcasts.of(kernel).join("a", "unknown") as subscriber:
            notice = subscriber.gap_notice()
    assert notice is not None
    assert "the server deleted messages before" in notice.content.text
    assert notice.parent_header is None


async def test_gap_notice_may_be_the_last_message_of_a_client() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", "unknown") as subscriber:
            notice = subscriber.gap_notice()
            assert notice is not None
        await kernel.execute("say x")
        with broadcast.join("a", notice.msg_id) as subscriber:
            assert subscriber.gap_notice() is None
            assert await read_texts(subscriber, 1) == ["x"]


async def test_gap_behind_a_gap_notice() -> None:
    async with running(limit=20_000) as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", "unknown") as subscriber:
            notice = subscriber.gap_notice()
            assert notice is not None
        for text in ("x" * 20_000, "y"):
            await kernel.execute(f"say {text}")
        with broadcast.join("a", notice.msg_id) as subscriber:
            assert subscriber.gap_notice() is not None


async def test_backlog_counts_bytes_and_unsent_messages() -> None:
    async with running() as (_, kernel, broadcasts):
        assert tuple(broadcasts.backlog()) == (0, 0, 0)
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as quick, broadcast.join("b", None):
            await kernel.execute("say x")
            await read_texts(quick, 1)
            kept_bytes, unsent, slowest = broadcasts.backlog()
            assert kept_bytes > 0
            assert broadcast.unsent() == [unsent - slowest, slowest]
            assert slowest > unsent - slowest
        assert broadcasts.backlog().unsent == 0


@pytest.mark.parametrize("how", ["death", "shutdown"])
async def test_end_of_the_kernel_follows_its_last_messages(how: str) -> None:
    async with running() as (fake, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as subscriber:
            await kernel.execute("say last")
            if how == "death":
                fake.die()
            else:
                await kernel.shutdown()
            await broadcast.ended.wait()
            assert await read_texts(subscriber, 1) == ["last"]
            with pytest.raises(KernelDied if how == "death" else ClientClosed):
                await read_texts(subscriber, 99)
        assert broadcasts.backlog().kept_bytes == 0  # the broadcast is forgotten
        assert broadcasts.of(kernel) is not broadcast


async def test_request_after_the_end_is_aborted_behind_the_last_outputs() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as subscriber:
            await kernel.execute("say last")
            await kernel.shutdown()
            await broadcast.ended.wait()
            header = Header(msg_id="1", msg_type="complete_request", session="a")
            await subscriber.forward(Message.build(header, {}), "shell")
            assert await read_texts(subscriber, 1) == ["last"]
            while (await subscriber.next()).message.parent_header != header:
                subscriber.advance()
            assert (await subscriber.next()).message.content.status == "aborted"


async def test_aborted_request_gets_a_reply_and_a_status() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as subscriber:
            header = Header(msg_id="1", msg_type="complete_request", session="a")
            subscriber.note_request(Message.build(header, {}), "shell")
            broadcast.abort("1")
            broadcast.abort("1")  # once is enough
            reply = (await subscriber.next()).message
            subscriber.advance()
            status = (await subscriber.next()).message
            subscriber.advance()
            assert (reply.msg_type, reply.content.status) == ("complete_reply", "aborted")
            assert (status.msg_type, status.content.execution_state) == ("status", "idle")
            assert reply.parent_header == status.parent_header == header
            assert broadcast.log.next(subscriber.cursor) is None


async def test_request_to_a_kernel_that_goes_on_stays_open() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        with broadcast.join("a", None) as subscriber:
            header = Header(msg_id="1", msg_type="execute_request", session="a")
            subscriber.note_request(Message.build(header, {}), "shell")
            broadcast.fail(ClientClosed("this program lets go of it", goes_on=True))
            with pytest.raises(ClientClosed, match="lets go"):
                await subscriber.next()
        assert [request.header for request in broadcast.handover().requests] == [header]


def cell(msg_id: str) -> Message:
    header = Header(msg_id=msg_id, msg_type="execute_request", session="page", version="5.4")
    return Message.build(header, {"code": "x"})


def handover(*cells: Message) -> Handover:
    return Handover.of([["page"], ["other"]], [Request(each, "shell") for each in cells])


async def read_cells(subscriber: Subscriber, *cells: str) -> dict[str, list[str]]:
    """Read until all cells have ended; return for each the texts, states and replies, in order."""
    found: dict[str, list[str]] = {name: [] for name in cells}
    replies = {"ok", "error", "aborted"}
    while not all("idle" in lines and replies & set(lines) for lines in found.values()):
        message = (await subscriber.next()).message
        subscriber.advance()
        parent = message.parent_header
        if parent is None or parent.msg_id not in found:
            continue
        content = message.content
        match message.msg_type:
            case "stream":
                found[parent.msg_id].append(content.text.partition(":")[0])
            case "status":
                found[parent.msg_id].append(content.execution_state)
            case "execute_reply":
                found[parent.msg_id].append(content.status)
    return found


async def test_cells_that_ended_while_no_server_ran() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        broadcast.take_over(handover(cell("1"), cell("2")))
        assert broadcast.log.clients == [["page"], ["other"]]
        with broadcast.join("page", None) as subscriber:
            lost = ["[this cell ended while no server was running", "aborted", "idle"]
            assert await read_cells(subscriber, "1", "2") == {"1": lost, "2": lost}
        assert broadcast.handover().requests == []


async def test_cell_that_ends_after_the_server_was_replaced() -> None:
    async with running() as (fake, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        early = Message.build(
            Header(msg_id="e", msg_type="stream"), {"text": "x"}, parent=cell("1")
        )
        broadcast.take_over(handover(cell("1")), [(early, "iopub", 0)])
        fake.publish(Status("idle"), parent=cell("1"))
        with broadcast.join("page", None) as subscriber:
            assert await read_cells(subscriber, "1") == {
                "1": ["[the server was restarted", "x", "idle", "ok"]
            }


async def test_cells_of_an_earlier_server_end_with_their_kernel() -> None:
    async with running() as (fake, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        fake.die()
        broadcast.take_over(handover(cell("1")))
        with broadcast.join("page", None) as subscriber:
            (lines,) = (await read_cells(subscriber, "1")).values()
            assert lines[-2:] == ["aborted", "idle"]


class Keeper:
    """Keeps the messages of a kernel, as a host does; implements KeepsMessages."""

    kernel_id = "process"

    def __init__(self, last_number: int, acknowledged: int) -> None:
        self.last_number = last_number
        self.acknowledged = acknowledged
        self.lost = 0
        self.confirmed = 0
        self.holds = False

    def hold(self) -> None:
        self.holds = True

    def confirm(self, number: int) -> None:
        self.confirmed = max(self.confirmed, number)


def kept(number: int, parent: Message) -> tuple[Message, ChannelName, int]:
    """Return a line that the kernel has printed while no server ran."""
    header = Header(msg_id=str(number), msg_type="stream")
    return Message.build(header, {"text": str(number)}, parent=parent), "iopub", number


async def test_clients_continue_behind_their_last_message() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        source = kernel.observers.source = Keeper(8, 4)
        positions = Handover.of([["page"], ["other"]], [], source="process", positions=[6, 2])
        broadcast.take_over(positions, [kept(number, cell("1")) for number in range(2, 9)])
        assert source.confirmed == 4
        with broadcast.join("page", None) as page, broadcast.join("other", None) as other:
            assert await read_texts(other, 4) == ["5", "6", "7", "8"]
            assert await read_texts(page, 2) == ["7", "8"]
            page.acknowledge(page.cursor.sent)
            assert source.confirmed == 4
            other.acknowledge(other.cursor.sent)
            assert source.confirmed == 8
            with broadcast.join("new", "3") as exact:
                assert await read_texts(exact, 5) == ["4", "5", "6", "7", "8"]


async def test_many_messages_are_taken_over_in_parts() -> None:
    async with running(limit=2**30) as (fake, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        source = kernel.observers.source = Keeper(5000, 4)
        positions = Handover.of([["page"], ["other"]], [], source="process", positions=[3000, 2])
        broadcast.take_over(positions, [kept(number, cell("1")) for number in range(1, 5001)])
        assert 0 < broadcast.log.end < 5000
        fake.publish(Stream("stdout", "later"), parent=cell("1"))
        assert broadcast.handover() == positions
        assert source.confirmed == 0
        await broadcast.until_ready()
        assert source.confirmed == 4
        assert broadcast.handover().positions == [3000, 4]
        with broadcast.join("page", None) as page, broadcast.join("other", None) as other:
            numbers = [str(number) for number in range(5, 5001)]
            assert await read_texts(other, 4997) == [*numbers, "later"]
            assert await read_texts(page, 2001) == [*numbers[2996:], "later"]


@pytest.mark.parametrize("event", ["join", "death"])
async def test_takeover_is_completed_at_once(event: str) -> None:
    async with running(limit=2**30) as (fake, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        kernel.observers.source = Keeper(3000, 0)
        broadcast.take_over(Handover(), [kept(number, cell("1")) for number in range(1, 3001)])
        if event == "death":
            fake.die()
            await broadcast.ended.wait()
        with broadcast.join("page", None) as page:
            texts = await read_texts(page, 3000)
            assert texts == [str(number) for number in range(1, 3001)]
        await broadcast.until_ready()


async def test_first_client_gets_messages_of_an_unknown_one() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        source = kernel.observers.source = Keeper(2, 1)
        broadcast.take_over(Handover(), [kept(number, cell("1")) for number in (1, 2)])
        assert source.confirmed == 1
        with broadcast.join("page", None) as page:
            assert await read_texts(page, 1) == ["2"]


@pytest.mark.parametrize("known", [[], [["earlier page"]]], ids=["no client", "another client"])
@pytest.mark.parametrize("last_msg_id", [None, "1"])
async def test_replies_to_a_client_that_the_handover_does_not_name(known, last_msg_id) -> None:
    async with running() as (fake, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        kernel.observers.source = Keeper(3, 0)
        # The earlier server was killed before storing that the page had come.
        stale = Handover.of(known, [], source="process", positions=[0] * len(known))
        replies = [
            Message.build(
                Header(msg_id=f"reply to {name}", msg_type="execute_reply"),
                {"status": "ok", "execution_count": 1},
                parent=cell(name),
            )
            for name in ("1", "3")
        ]
        broadcast.take_over(stale, [kept(1, cell("1")), (replies[0], "shell", 2)])
        fake.publish(Status("idle"), parent=cell("1"))
        broadcast.offer(replies[1], "shell")  # this cell ended before the page came back
        with broadcast.join("page", last_msg_id) as page:
            received: list[str] = []
            while "reply to 3" not in received:
                received.append((await page.next()).message.msg_id)
                page.advance()
        assert received.count("reply to 1") == 1


@pytest.mark.parametrize(("missing", "text"), [(0, "before the kernel"), (1, "this cell ended")])
async def test_cell_without_any_message_in_the_host(missing, text) -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast = broadcasts.of(kernel)
        kernel.observers.source = Keeper(0, 0)
        broadcast.take_over(handover(cell("1")), missing=missing)
        with broadcast.join("page", None) as subscriber:
            (lines,) = (await read_cells(subscriber, "1")).values()
            assert text in lines[0]
            assert lines[1:] == ["aborted", "idle"]


async def test_messages_are_held_while_there_are_clients() -> None:
    async with running() as (_, kernel, broadcasts):
        assert not kernel.observers.holds
        broadcast = broadcasts.of(kernel)
        assert kernel.observers.holds
        broadcast.fail(ClientClosed("over"))
        assert not kernel.observers.holds
        broadcasts.of(kernel)
        assert kernel.observers.holds


async def test_changes_are_reported_to_be_stored() -> None:
    async with running() as (_, kernel, broadcasts):
        broadcast: Broadcast = broadcasts.of(kernel)
        stored: list[Handover] = []
        broadcast.store_with(lambda: stored.append(broadcast.handover()))
        with broadcast.join("page", None) as subscriber:
            assert stored[-1].clients == [["page"]]
            await subscriber.forward(cell("1"), "shell")
            assert [each.header.msg_id for each in stored[-1].requests] == ["1"]
            await read_cells(subscriber, "1")
            assert stored[-1].requests == []
