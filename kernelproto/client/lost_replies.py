"""LostReplies: ends the executions to which the kernel will not reply; see ``wire/fences.py``."""

from __future__ import annotations

from contextlib import suppress

import anyio

from kernelproto.client.dispatcher import Dispatcher
from kernelproto.client.reply import CATCHING_UP_SECONDS
from kernelproto.concurrency.task_groups import StartTask
from kernelproto.exceptions import KernelProtoError
from kernelproto.wire.fences import LOOK_SECONDS


class LostReplies:
    """Watches the executions of one client while there are any.

    Args:
        dispatcher: sends the fences, and ends the executions.
        start_task: runs the task.
    """

    def __init__(self, dispatcher: Dispatcher, start_task: StartTask) -> None:
        self._dispatcher = dispatcher
        self._fences = dispatcher.session.fences
        self._start_task = start_task
        self._watching = False

    def watch(self) -> None:
        """Start the task that checks the open executions, unless it runs already."""
        if not self._watching:
            self._watching = True
            self._start_task(self._watch)

    def note_interrupt(self) -> None:
        """Note an interrupt of the kernel, which may lose a message."""
        self._fences.note_interrupt()

    async def _watch(self) -> None:
        try:
            with suppress(KernelProtoError):  # nothing can be sent any more: nothing is open
                await self._pause()
                while self._look():
                    await self._end_lost()
                    for fence in self._fences.due():
                        await self._dispatcher.send(fence.message, fence.channel, fence)
                    await self._pause()
        finally:
            self._watching = False

    async def _pause(self) -> None:
        """Wait for the time of the next look; unread messages may say more than the silence."""
        await anyio.sleep(LOOK_SECONDS)
        await self._dispatcher.catch_up()

    def _look(self) -> bool:
        for msg_id in self._fences.look():
            self._dispatcher.forget(msg_id)
        return bool(self._fences)

    async def _end_lost(self) -> None:
        lost = self._fences.lost()
        if lost:
            # The reply may be here, unread.
            await anyio.sleep(CATCHING_UP_SECONDS)
            await self._dispatcher.catch_up()
            still_lost = self._fences.lost()
            for request in lost:
                if request in still_lost:
                    self._dispatcher.give_up(request)
