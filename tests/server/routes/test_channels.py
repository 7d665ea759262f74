"""The WebSocket of a kernel, with fake kernels and without a network."""

from __future__ import annotations

import json
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec import structs

from kernelproto import KernelDied, LaunchError
from kernelproto.fanout.broadcast import Broadcast
from kernelproto.testing import Exchange, FakeKernel, FakeProvider
from kernelproto.wire.codec import Codec
from kernelproto.wire.content import Stream
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing

GUARD_SECONDS = 60

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

FRAMINGS = [
    pytest.param((V1_SUBPROTOCOL,), id="v1"),
    pytest.param(("something.else",), id="legacy"),
]


def texts(messages) -> list[str]:
    return [message.content.text for message in messages if message.msg_type == "stream"]


@pytest.mark.parametrize("subprotocols", FRAMINGS)
async def test_executes_and_keeps_the_header_of_the_client(serving, subprotocols) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, subprotocols=subprotocols) as socket:
            assert socket.subprotocol == (
                V1_SUBPROTOCOL if V1_SUBPROTOCOL in subprotocols else None
            )
            request = await socket.execute("6 * 7")
            messages = await socket.finish(request)
    assert [message.msg_type for message in messages if message.msg_type != "status"] == [
        "execute_input",
        "execute_result",
        "execute_reply",
    ]
    assert {message.parent_header for message in messages} == {request.header}


@pytest.mark.parametrize("subprotocols", FRAMINGS)
async def test_carries_buffers_both_ways(serving, subprotocols) -> None:
    buffers = [b"", b"\0\1" * 500_000]

    def prepare(fake: FakeKernel) -> None:
        async def echo(exchange: Exchange) -> None:
            exchange.publish({"x": 1}, "custom", buffers=exchange.request.buffers)

        fake.on("comm_msg", echo)

    async with serving(prepare=prepare) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, subprotocols=subprotocols) as socket:
            await socket.send("comm_msg", {"comm_id": "1", "data": {}}, buffers=buffers)
            *_, echo = await socket.receive_until("custom")
    assert [bytes(buffer) for buffer in echo.buffers] == buffers


async def test_contents_are_not_decoded(serving) -> None:
    """Even an unknown message type reaches the kernel byte for byte."""
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            request = await socket.send("unheard_of", {"text": "x"})
            (fake,) = server.provider.kernels
            received = await fake.wait_for("unheard_of")
    assert bytes(received.raw_content) == bytes(request.raw_content)
    assert bytes(received.raw_header) == bytes(request.raw_header)


@pytest.mark.parametrize("subprotocols", FRAMINGS)
@pytest.mark.parametrize("buffers", [(), (b"\xff",)], ids=["no buffers", "buffers"])
async def test_client_receives_valid_utf_8(serving, subprotocols, buffers) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, subprotocols=subprotocols) as socket:
            (fake,) = server.provider.kernels
            header = Header(msg_id="1", msg_type="stream", username="caf")
            message = Message.build(header, Stream(text="caf"), buffers=buffers)
            message.parts = tuple(part.replace(b"caf", b"caf\xe9") for part in message.parts)
            codec = Codec(signer=fake.connection_info.signer())
            fake.send_frames("iopub", codec.encode(message))
            *_, received = await socket.receive_until("stream")
    assert json.loads(bytes(received.raw_header).decode())["username"] == "caf\ufffd"
    assert json.loads(bytes(received.raw_content).decode())["text"] == "caf\ufffd"


async def test_notice_replaces_an_output_with_unreadable_headers(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            (fake,) = server.provider.kernels
            request = await socket.execute("6 * 7")
            await socket.finish(request)
            header = Header(msg_id="1", msg_type="stream")
            message = Message.build(header, Stream(text="lost"), parent=request)
            message.parts = (*message.parts[:2], b"[]", *message.parts[3:])
            codec = Codec(signer=fake.connection_info.signer())
            fake.send_frames("iopub", codec.encode(message))
            *_, received = await socket.receive_until("stream")
    assert received.parent_header == request.header
    assert received.content.name == "stderr"
    assert received.content.text.startswith("[an output is missing here: the kernel's stream ")


@pytest.mark.parametrize("subprotocols", FRAMINGS)
async def test_message_without_a_version_gets_one(serving, subprotocols) -> None:
    """A kernel treats a message without a version as version 4, and does not reply."""
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, subprotocols=subprotocols) as socket:
            framing = client_framing(socket.subprotocol)
            header = Header(msg_id="1", msg_type="execute_request", session="s")
            request = Message.build(header, {"code": "6 * 7"})
            await socket.send_raw(framing.encode("shell", request))
            *_, answer = await socket.receive_until("execute_reply", request)
    assert answer.parent_header == structs.replace(header, version=PROTOCOL_VERSION)


async def test_header_that_cannot_be_encoded_closes_the_connection(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            header = Header(msg_id="1", msg_type="x")
            raw = b'{"msg_id": "1", "msg_type": "x", "more": "\\ud800"}'
            message = Message(header, None, [raw, b"{}", b"{}", b"{}"])
            await socket.send_raw(client_framing(socket.subprotocol).encode("shell", message))
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("never")
            assert socket.closed is not None
            assert socket.closed[0] == 1007


async def test_input_request_goes_to_the_client_that_sent_the_code(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as socket,
            server.connect("ada", kernel_id) as other,
        ):
            request = await socket.execute("ask", allow_stdin=True)
            *_, question = await socket.receive_until("input_request")
            await socket.send("input_reply", {"value": "Ada"}, "stdin", parent=question)
            assert texts(await socket.finish(request)) == ["hello Ada"]
            mark = await other.execute("6 * 7")
            seen = await other.receive_until("execute_reply", mark)
    types = {message.msg_type for message in seen}
    assert "stream" in types  # outputs are for all
    assert "input_request" not in types
    assert len([m for m in seen if m.msg_type == "execute_reply"]) == 1  # replies are not


async def test_outputs_reach_only_the_user_of_the_kernel(serving) -> None:
    users = [f"user-{number}" for number in range(20)]
    strays: list[str] = []

    async def use(server, user: str) -> None:
        kernel_id = await server.start(user)
        async with server.connect(user, kernel_id) as socket:
            for number in range(20):
                request = await socket.execute(f"say {user}:{number}")
                for text in texts(await socket.finish(request)):
                    if text != f"{user}:{number}":
                        strays.append(text)

    async with serving() as server, anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(use, server, user)
    assert strays == []


@pytest.mark.parametrize("user", ["bob", "root"])
async def test_kernel_of_another_user_is_not_found(serving, user: str) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect(user, kernel_id) as socket:
            assert socket.refused == 404
            assert json.loads(socket.refusal)["reason"] == "Not Found"


async def test_unknown_user_is_refused(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("stranger", kernel_id) as socket:
            assert socket.refused == 403


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://server.test", None),
        ("https://friend.test", None),
        ("https://evil.test", 403),
        ("null", 403),
    ],
)
async def test_origin_is_checked(serving, origin: str, refused: int | None) -> None:
    async with serving(settings={"allow_origins": ["https://friend.test"]}) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, headers={"origin": origin}) as socket:
            assert socket.refused == refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        "text where there are binary frames only",
        (4).to_bytes(8, "little") + b"\xff" * 64,
    ],
)
async def test_malformed_message_closes_the_connection(serving, data: bytes | str) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as bystander,
            server.connect("ada", kernel_id) as socket,
        ):
            await socket.send_raw(data)
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("never")
            assert socket.closed is not None
            assert socket.closed[0] == 1007
            request = await bystander.execute("6 * 7")
            await bystander.finish(request)


@pytest.mark.parametrize("channel", ["iopub", "hb", "nonsense"])
async def test_forged_channel_closes_the_connection(serving, channel) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            await socket.send("status", {"execution_state": "idle"}, channel)
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("never")
            assert socket.closed is not None
            assert "channel" in socket.closed[1]


async def test_message_that_is_too_large_closes_the_connection(serving) -> None:
    async with serving(settings={"max_message_bytes": 10_000}) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            await socket.execute("x" * 10_000)
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("never")
            assert socket.closed is not None
            assert socket.closed[0] == 1007


async def test_client_that_does_not_read_is_cut_off_and_delays_no_other(serving) -> None:
    def prepare(fake: FakeKernel) -> None:
        async def flood(exchange: Exchange) -> None:
            for number in range(2000):
                exchange.stream(f"{number} " + "x" * 1000)

        fake.on_execute("flood", flood)

    settings = {"send_buffer_bytes": 8_000_000}
    async with serving(settings=settings, prepare=prepare) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            async with server.connect("ada", kernel_id, buffered=0) as deaf:
                for _ in range(3):
                    request = await socket.execute("flood")
                    assert len(texts(await socket.finish(request))) == 2000
                with pytest.raises(anyio.EndOfStream):
                    await deaf.receive_until("never")
                assert deaf.closed is not None
                assert deaf.closed[0] == 1013
                assert "slow" in deaf.closed[1]
            assert server.pool.kernels("ada")[0].connections == 1


async def test_connection_counts_and_keeps_the_kernel(serving) -> None:
    async with serving(max_kernels=1) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id):
            assert server.pool.kernels()[0].connections == 1
            async with server.client("bob") as bob:
                assert (await bob.post("/api/kernels")).status_code == 503
        await server.start("bob")
        assert [kernel.user for kernel in server.pool.kernels()] == ["bob"]


async def test_connection_continues_after_a_restart(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket, server.client("ada") as ada:
            response = await ada.post(f"/api/kernels/{kernel_id}/restart")
            assert response.status_code == 200
            await socket.execute("6 * 7")
            messages = await socket.receive_until("execute_result")
    states = [m.content.execution_state for m in messages if m.msg_type == "status"]
    assert "restarting" not in states  # JupyterLab would report a crash


async def test_death_is_announced_and_the_next_kernel_works(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            server.provider.kernels[0].die()
            *_, status = await socket.receive_until("status")
            assert status.content.execution_state == "restarting"
            await socket.finish(await socket.execute("6 * 7"))


async def test_last_outputs_precede_the_status_dead(serving) -> None:
    async with serving(restart=None) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            (fake,) = server.provider.kernels
            await socket.finish(await socket.execute("say last words"))
            fake.die()
            *_, status = await socket.receive_until("status")
            assert status.content.execution_state == "dead"
            with pytest.raises(anyio.EndOfStream):
                await socket.receive()
            assert socket.closed is not None
            assert socket.closed[0] == 1001


async def test_end_of_a_kernel_closes_its_connections(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket, server.client("ada") as ada:
            assert (await ada.delete(f"/api/kernels/{kernel_id}")).status_code == 204
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("never")
            assert socket.closed == (1001, "This kernel was shut down: start another one.")


async def test_close_reason_says_that_the_kernel_was_culled(serving) -> None:
    async with serving(max_kernels=1, max_per_user=1) as server:
        kernel_id = await server.start("ada")
        kernel = server.pool.find(kernel_id, user="ada")
        assert kernel is not None
        async with server.connect("ada", kernel_id) as socket:
            (found,) = server.pool._executor._kernels._by_number.values()
            server.pool._executor._end(found, "culled")
            code, reason = await socket.receive_close()
    assert code == 1001
    assert reason == "This kernel was idle for too long and was shut down: start another one."


async def test_draining_server_closes_connections_and_starts_no_kernel(serving) -> None:
    async with serving(max_per_user=3) as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        drain = server.app.state.drain
        assert (await ada.get("/readyz")).status_code == 200
        async with server.connect("ada", kernel_id) as socket, anyio.create_task_group() as tasks:
            request = await socket.execute("work")
            await socket.receive_until("execute_input", request)
            tasks.start_soon(partial(drain.run, server.pool, grace=GUARD_SECONDS))
            await anyio.wait_all_tasks_blocked()
            for response in (
                await ada.get("/readyz"),
                await ada.post("/api/kernels"),
                await ada.post("/api/sessions", json={"path": "x", "type": "y"}),
            ):
                assert response.status_code == 503
                assert int(response.headers["retry-after"]) > 0
                assert "shutting down" in response.json()["message"]
            async with server.connect("ada", kernel_id) as refused:
                assert refused.refused == 503
            assert (await ada.get("/healthz")).status_code == 200
            assert not drain.closing.is_set()  # the kernel is still busy
            await ada.post(f"/api/kernels/{kernel_id}/interrupt")
            assert await socket.receive_close() == (
                1012,
                "The server is shutting down: try again in a moment.",
            )


@pytest.mark.parametrize("end", ["hurry", "grace"])
async def test_draining_server_does_not_wait_for_ever(serving, end: str) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        drain = server.app.state.drain
        async with server.connect("ada", kernel_id) as socket, anyio.create_task_group() as tasks:
            request = await socket.execute("work")
            await socket.receive_until("execute_input", request)
            grace = 0.01 if end == "grace" else GUARD_SECONDS
            tasks.start_soon(partial(drain.run, server.pool, grace=grace))
            if end == "hurry":
                drain.hurry()
            assert (await socket.receive_close())[0] == 1012


@pytest.mark.parametrize("data", [None, b"nonsense"])
async def test_lost_client_is_no_error(serving, data: bytes | None) -> None:
    """The server notices it on the next send, or on the disconnect."""
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as witness,
            server.connect("ada", kernel_id) as socket,
        ):
            socket.gone = True
            if data is not None:
                await socket.send_raw(data)
            await witness.finish(await witness.execute("say something"))
        assert server.pool.kernels()[0].connections == 0


async def test_client_that_waits_for_a_failing_start_is_refused(serving, monkeypatch) -> None:
    begun, proceed = anyio.Event(), anyio.Event()

    async def launch(self, name, **options):
        begun.set()
        await proceed.wait()
        raise LaunchError("it does not start")

    monkeypatch.setattr(FakeProvider, "launch", launch)
    async with serving() as server, anyio.create_task_group() as tasks, server.client("ada") as ada:
        tasks.start_soon(ada.post, "/api/kernels")
        await begun.wait()
        (model,) = (await ada.get("/api/kernels")).json()
        assert model["execution_state"] == "starting"

        async def connect() -> None:
            async with server.connect("ada", model["id"]) as socket:
                assert socket.refused == 502

        tasks.start_soon(connect)
        await anyio.wait_all_tasks_blocked()
        proceed.set()


async def test_message_that_cannot_be_framed_is_logged(serving, caplog) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, subprotocols=()) as socket:
            (fake,) = server.provider.kernels
            header = Header(msg_id="1", msg_type="empty")
            message = Message(
                header, None, (b'{"msg_id":"1","msg_type":"empty"}', b"{}", b"{}", b"")
            )
            codec = Codec(signer=fake.connection_info.signer())
            fake.send_frames("iopub", codec.encode(message))
            await socket.finish(await socket.execute("6 * 7"))
    assert "cannot send a message of kernel" in caplog.text


async def test_many_sessions_of_one_client(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, query="session_id=first") as socket:
            for number in range(150):
                socket._factory.session = f"session-{number}"
                await socket.finish(await socket.execute("6 * 7"))


LINES = 2000


def printing(fake: FakeKernel) -> None:
    async def print_lines(exchange: Exchange) -> None:
        for number in range(LINES):
            exchange.stream(f"{number}")
            await checkpoint()

    fake.on_execute("print", print_lines)


async def read_lines(socket, count: int) -> tuple[list[str], str]:
    """Read *count* outputs; return them and the msg_id of the last message."""
    messages: list[Message] = []
    while len(texts(messages)) < count:
        messages.append((await socket.receive())[1])
    return texts(messages), messages[-1].msg_id


async def finish_lines(socket, request: Message) -> list[str]:
    messages = await socket.finish(request)
    assert [m.msg_type for m in messages].count("execute_reply") == 1
    return texts(messages)


@pytest.mark.parametrize("acknowledges", [True, False])
async def test_client_that_reconnects_gets_each_output_once_and_in_order(
    serving, acknowledges: bool
) -> None:
    """Each connection has a new session, like a reloaded page; the request has the first one."""
    async with serving(prepare=printing) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, acknowledges=acknowledges) as socket:
            request = await socket.execute("print")
            lines, last = await read_lines(socket, 100)
        for number in range(5):
            query = f"session_id={number}" + ("" if acknowledges else f"&last_msg_id={last}")
            async with server.connect(
                "ada", kernel_id, query=query, acknowledges=acknowledges
            ) as socket:
                more, last = await read_lines(socket, 300)
                lines += more
        query = "" if acknowledges else f"last_msg_id={last}"
        async with server.connect(
            "ada", kernel_id, query=query, acknowledges=acknowledges
        ) as socket:
            lines += await finish_lines(socket, request)
    assert lines == [f"{number}" for number in range(LINES)]


async def test_acknowledged_outputs_are_not_sent_again(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, acknowledges=True) as socket:
            await socket.finish(await socket.execute("say 1"))
        async with server.connect("ada", kernel_id, acknowledges=True) as socket:
            assert texts(await socket.receive_until("stream", await socket.execute("say 2"))) == [
                "2"
            ]


async def test_client_takes_its_cursor_after_its_network_has_failed(serving) -> None:
    """The server cannot close the lost WebSocket, which is no error."""
    async with serving() as server:
        kernel_id = await server.start("ada")
        query = "session_id=tab"
        async with server.connect("ada", kernel_id, query=query) as lost:
            lost.gone = True
            await lost.execute("say 1")
            await anyio.wait_all_tasks_blocked()  # the server has tried to send
            async with server.connect("ada", kernel_id, query=query) as socket:
                await anyio.wait_all_tasks_blocked()  # the server has tried to close
                await socket.finish(await socket.execute("say 2"))
            assert lost.closed is None


async def test_request_after_the_end_of_the_kernel_loses_no_output(serving) -> None:
    """The client reads slowly, and has not learned that its kernel has ended."""
    async with serving(prepare=printing) as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id, buffered=0) as socket:
            request = await socket.execute("print")
            lines, _ = await read_lines(socket, 10)
            while server.pool.kernels()[0].state == "busy":
                await checkpoint()
            assert (await ada.delete(f"/api/kernels/{kernel_id}")).status_code == 204
            late = await socket.execute("print")
            await anyio.wait_all_tasks_blocked()  # the server has received it
            lines += await finish_lines(socket, request)
            (reply, _) = await socket.finish(late)
            code, _ = await socket.receive_close()
    assert lines == [f"{number}" for number in range(LINES)]
    assert reply.content.status == "aborted"
    assert code == 1001


async def leave_in_an_output(server) -> tuple[str, Message]:
    """Read ten lines and disconnect; return the kernel's id and the request when all is printed."""
    kernel_id = await server.start("ada")
    async with server.connect("ada", kernel_id, acknowledges=True) as socket:
        request = await socket.execute("print")
        await read_lines(socket, 10)
    while server.pool.kernels()[0].state == "busy":
        await checkpoint()
    return kernel_id, request


@pytest.mark.parametrize("settings", [{"send_buffer_bytes": 200_000}, {"replay_seconds": 0.0}])
async def test_deleted_outputs_are_announced(serving, settings) -> None:
    async with serving(prepare=printing, settings=settings) as server:
        kernel_id, request = await leave_in_an_output(server)
        async with server.connect("ada", kernel_id) as back:
            channel, notice = await back.receive()
            assert (channel, notice.msg_type) == ("iopub", "stream")
            assert notice.content.name == "stderr"
            assert "outputs are missing: the server deleted" in notice.content.text
            if "send_buffer_bytes" in settings:
                assert notice.parent_header == request.header  # the notebook shows the notice there
                lines = await finish_lines(back, request)
                assert lines == [f"{n}" for n in range(LINES - len(lines), LINES)]
                assert 0 < len(lines) < LINES - 10
            await finish_lines(back, await back.execute("6 * 7"))


async def test_gap_notice_is_sent_again_until_it_is_acknowledged(serving) -> None:
    async with serving(prepare=printing, settings={"send_buffer_bytes": 200_000}) as server:
        kernel_id, request = await leave_in_an_output(server)
        query = "session_id=s"
        async with server.connect("ada", kernel_id, query=query, acknowledges=True):
            pass  # disconnects before it reads a message
        async with server.connect("ada", kernel_id, query=query, acknowledges=True) as back:
            _, notice = await back.receive()
            assert "outputs are missing" in notice.content.text
            await finish_lines(back, request)
        async with server.connect("ada", kernel_id, query=query, acknowledges=True) as back:
            messages = await back.receive_until("execute_reply", await back.execute("6 * 7"))
            assert texts(messages) == []


async def test_each_client_gets_the_status_dead_once(serving) -> None:
    async with serving(restart=None) as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as first,
            server.pool.connection("ada", name=kernel_id, channels=()) as connection,
        ):
            await first.finish(await first.execute("6 * 7"))
            watchers = connection.kernel.observers._watchers
            (broadcast,) = [watcher for watcher in watchers if isinstance(watcher, Broadcast)]
            server.provider.kernels[0].die()
            await broadcast.ended.wait()
            with broadcast.join("late", None) as late, pytest.raises(KernelDied):
                await late.next()
            *_, status = await first.receive_until("status")
            assert status.content.execution_state == "dead"
            with pytest.raises(anyio.EndOfStream):
                await first.receive()


async def test_session_takes_its_own_cursor(serving) -> None:
    """Its network has failed, and the server has not noticed yet."""
    async with serving() as server:
        kernel_id = await server.start("ada")
        query = "session_id=s"
        async with server.connect("ada", kernel_id, query=query, acknowledges=True) as socket:
            request = await socket.execute("say 1")
            await server.provider.kernels[0].wait_for("execute_request")
            async with server.connect("ada", kernel_id, query=query, acknowledges=True) as again:
                assert await finish_lines(again, request) == ["1"]
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("never")
            assert socket.closed is not None
            assert "session" in socket.closed[1]


async def test_client_learns_of_a_restart_in_its_absence(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as witness:
            async with server.connect("ada", kernel_id, acknowledges=True):
                pass
            await witness.finish(await witness.execute("say before"))
            server.provider.kernels[0].die()
            await witness.receive_until("status")
            await witness.finish(await witness.execute("say after"))
            async with server.connect("ada", kernel_id) as back:
                await back.execute("6 * 7")
                messages = await back.receive_until("execute_result")
    story = [
        m.content.text if m.msg_type == "stream" else m.content.execution_state
        for m in messages
        if m.msg_type == "stream" or (m.msg_type == "status" and m.parent_header is None)
    ]
    death = "[the kernel died: signal 9 (SIGKILL)]\n"
    assert story == ["before", death, "restarting", "after"]
