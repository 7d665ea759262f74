"""The messages to clients when their kernel dies or is restarted: no request stays open."""

from __future__ import annotations

import pytest
from anyio.lowlevel import checkpoint

from kernelproto import LaunchError
from kernelproto.wire.message import Message

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


def lines_of(messages: list[Message]) -> list[str]:
    """Return each status, output and reply as a line of text, with its request."""
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


async def test_death_aborts_pending_requests(serving) -> None:
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
            assert lines_of(messages)[-6:] == [
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
            assert lines_of(stderr) == ["stderr [the kernel died: signal 9 (SIGKILL)] for 2"]


async def test_final_death_aborts_pending_requests_before_the_status_dead(serving) -> None:
    async with serving(restart=None) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            works = await socket.execute("work")
            await socket.receive_until("execute_input", works)
            server.provider.kernels[0].die(1)
            messages = await socket.receive_until("status")
            while messages[-1].content.execution_state != "dead":
                messages += await socket.receive_until("status")
            assert lines_of(messages)[-4:] == [
                "stderr [the kernel died: exit status 1] for 1",
                "execute_reply aborted for 1",
                "idle for 1",
                "dead for -",
            ]


async def test_death_of_an_idle_kernel_is_announced_to_its_clients(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            server.provider.kernels[0].die(3)
            messages = await socket.receive_until("status")
            assert lines_of(messages) == [
                "stderr [the kernel died: exit status 3] for -",
                "restarting for -",
            ]


async def test_requested_restart_aborts_pending_requests(serving) -> None:
    """Including those of clients that have not requested the restart."""
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
            assert "restarting" not in " ".join(lines_of(messages))
            assert [line for line in lines_of(messages) if "stderr" in line] == []


async def test_restart_aborts_a_request_that_the_kernel_has_not_read(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket, server.client("ada") as ada:
            (fake,) = server.provider.kernels
            fake.deaf.add("shell")
            request = await socket.execute("6 * 7")
            await fake.wait_for("execute_request")
            await ada.post(f"/api/kernels/{kernel_id}/restart")
            assert sorted(lines_of(await socket.finish(request))) == [
                "execute_reply aborted for 1",
                "idle for 1",
            ]


async def test_failed_restart_aborts_pending_requests(serving) -> None:
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
            assert "execute_reply aborted for 1" in lines_of(await socket.finish(request))


async def test_replied_requests_are_not_aborted(serving) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            for _ in range(3):
                await socket.finish(await socket.execute("6 * 7"))
            server.provider.kernels[0].die()
            assert len(await socket.receive_until("status")) == 2
