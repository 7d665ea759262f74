"""What clients are told when their kernel dies or is restarted: nobody waits for ever."""

from __future__ import annotations

import pytest
from anyio.lowlevel import checkpoint

from kernelproto import LaunchError
from kernelproto.wire.message import Message

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


def told(messages: list[Message]) -> list[str]:
    """Return statuses, outputs and replies in words, each with the request that it belongs to."""
    parents = [message.parent_header for message in messages]
    return [
        f"{_words(message)} for {parent.msg_id[-1] if parent else '-'}"
        for message, parent in zip(messages, parents, strict=True)
    ]


def _words(message: Message) -> str:
    content = message.content
    match message.msg_type:
        case "status":
            return content.execution_state
        case "stream":
            return f"{content.name} {content.text}".rstrip("\n")
        case msg_type:
            return f"{msg_type} {getattr(content, 'status', '')}"


async def test_death_aborts_the_requests_under_way(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with (
            server.connect("ada", kernel_id) as socket,
            server.connect("ada", kernel_id) as other,
        ):
            await socket.finish(await socket.execute("6 * 7"))
            works = await socket.execute("work")
            await socket.receive_until("execute_input", works)
            await socket.execute("6 * 7")
            await socket.finish(await socket.send("kernel_info_request", {}, "control"))
            server.provider.kernels[0].die()
            messages = await socket.receive_until("stream")
            for _ in range(3):
                messages += await socket.receive_until("status")
            assert told(messages)[-6:] == [
                "stderr [the kernel died: signal 9 (SIGKILL)] for 2",
                "restarting for -",
                "execute_reply aborted for 2",
                "idle for 2",
                "execute_reply aborted for 3",
                "idle for 3",
            ]
            await socket.finish(await socket.execute("6 * 7"))
            messages = await other.receive_until("status")
            while messages[-1].content.execution_state != "restarting":
                messages += await other.receive_until("status")
            assert [m for m in messages if m.msg_type.endswith("_reply")] == []
            stderr = [m for m in messages if m.msg_type == "stream"]
            assert told(stderr) == ["stderr [the kernel died: signal 9 (SIGKILL)] for 2"]


async def test_death_for_good_aborts_the_requests_before_it_is_told(serving) -> None:
    async with serving(restart=None) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            works = await socket.execute("work")
            await socket.receive_until("execute_input", works)
            server.provider.kernels[0].die(1)
            messages = await socket.receive_until("status")
            while messages[-1].content.execution_state != "dead":
                messages += await socket.receive_until("status")
            assert told(messages)[-4:] == [
                "stderr [the kernel died: exit status 1] for 1",
                "execute_reply aborted for 1",
                "idle for 1",
                "dead for -",
            ]


async def test_idle_kernel_that_dies_tells_all_clients(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            server.provider.kernels[0].die(3)
            messages = await socket.receive_until("status")
            assert told(messages) == [
                "stderr [the kernel died: exit status 3] for -",
                "restarting for -",
            ]


async def test_restart_by_hand_aborts_the_requests_under_way(serving) -> None:
    """Also those of clients that have not asked for it."""
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket, server.client("ada") as ada:
            works = await socket.execute("work")
            await socket.receive_until("execute_input", works)
            await ada.post(f"/api/kernels/{kernel_id}/restart")
            last = await socket.execute("6 * 7")
            messages = await socket.receive_until("execute_reply", works)
            assert messages[-1].content.status in ("aborted", "error")  # it may be interrupted
            messages += await socket.finish(last)
            assert "restarting" not in " ".join(told(messages))
            assert [line for line in told(messages) if "stderr" in line] == []


async def test_deaf_request_is_aborted_by_a_restart(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket, server.client("ada") as ada:
            (fake,) = server.provider.kernels
            fake.deaf.add("shell")
            request = await socket.execute("6 * 7")
            await fake.wait_for("execute_request")
            await ada.post(f"/api/kernels/{kernel_id}/restart")
            assert sorted(told(await socket.finish(request))) == [
                "execute_reply aborted for 1",
                "idle for 1",
            ]


async def test_restart_that_fails_leaves_no_client_waiting(serving) -> None:
    async def fail(*_: object, **__: object) -> None:
        await checkpoint()
        raise LaunchError("no more kernels")

    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket, server.client("ada") as ada:
            (fake,) = server.provider.kernels
            fake.deaf.add("shell")
            request = await socket.execute("6 * 7")
            await fake.wait_for("execute_request")
            server.provider.launch = fail
            assert (await ada.post(f"/api/kernels/{kernel_id}/restart")).status_code >= 500
            assert "execute_reply aborted for 1" in told(await socket.finish(request))


async def test_replies_that_have_come_are_not_repeated(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            for _ in range(3):
                await socket.finish(await socket.execute("6 * 7"))
            server.provider.kernels[0].die()
            assert len(await socket.receive_until("status")) == 2
