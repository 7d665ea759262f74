"""Conversations: kernels and files that belong together, under a name that the model chooses.

A conversation has a folder, and a kernel for each kernel type in use; these kernels share the
folder. Calls that run code in a conversation run one after the other. A conversation without a call
for a while ends with its kernels.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio import AsyncContextManagerMixin, to_thread

from kernelproto.client.execution import Execution
from kernelproto.concurrency.task_groups import background_tasks, start_logged
from kernelproto.exceptions import KernelProtoError
from kernelproto.mcp.folders import Folders
from kernelproto.mcp.kernels import ConversationKernels, KernelSeat
from kernelproto.mcp.limits import Limits, Refused
from kernelproto.mcp.names import check_conversation
from kernelproto.supervise import Kernel

logger = logging.getLogger(__name__)

# How often conversations are examined for their end.
_EXAMINE_SECONDS = 5.0

# After this time, cancelled code that still runs loses its kernel.
_STOP_SECONDS = 3.0

# The server remembers so many conversations that have expired.
_MOST_EXPIRED = 1000


class Conversation:
    """One conversation.

    Args:
        name: the name.

    Attributes:
        turn: held by the call that runs code.
        calls: the number of calls that use the conversation now.
        used_at: when the last call ended.
        running: the code that runs now.
        saved: the names of saved outputs, the oldest first.
        executions: the number of calls that ran code.
        resets: how often the conversation was reset.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn = anyio.Lock()
        self.calls = 0
        self.used_at = anyio.current_time()
        self.running: Execution | None = None
        self.saved: list[str] = []
        self.executions = 0
        self.resets = 0
        self._notes: list[str] = []
        self._seats: dict[str, KernelSeat] = {}

    @property
    def seats(self) -> Sequence[KernelSeat]:
        """The kernels of the conversation."""
        return list(self._seats.values())

    def seat(self, kernel_type: str) -> KernelSeat:
        """Return the place of the kernel of a type."""
        return self._seats.setdefault(kernel_type, KernelSeat(kernel_type))

    def forget_kernels(self) -> None:
        """Note that the kernels were ended and that the model knows."""
        self._seats.clear()

    def note(self, text: str) -> None:
        """Keep a message for the model, for the next result."""
        self._notes.append(text)

    def take_notes(self) -> list[str]:
        """Return the messages for the model since the last call."""
        notes, self._notes = self._notes, []
        return notes


class Conversations(AsyncContextManagerMixin):
    """All conversations of a user, during the block.

    Args:
        kernels: starts and ends the kernels.
        folders: the files.
        limits: the limits of the server.
        temporary: whether an expired conversation loses its files.
    """

    def __init__(
        self, kernels: ConversationKernels, folders: Folders, limits: Limits, *, temporary: bool
    ) -> None:
        self.folders = folders
        self.limits = limits
        self._kernels = kernels
        self._temporary = temporary
        self._conversations: dict[str, Conversation] = {}
        self._expired: OrderedDict[str, None] = OrderedDict()
        self._ending: dict[str, anyio.Event] = {}

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Conversations]:
        async with background_tasks() as tasks:
            start_logged(tasks, self._keep_time)
            yield self

    @property
    def names(self) -> list[str]:
        """The names of the conversations."""
        return sorted(self._conversations)

    @asynccontextmanager
    async def open(self, name: str, *, make: bool = False) -> AsyncGenerator[Conversation]:
        """Give a conversation for one call.

        Args:
            name: the name.
            make: whether to begin the conversation if there is none.

        Raises:
            Refused: there is no such conversation, or there are too many.
        """
        check_conversation(name)
        while (ended := self._ending.get(name)) is not None:
            await ended.wait()
        conversation = self._conversations.get(name)
        if conversation is None:
            if not make and not await to_thread.run_sync(self.folders.exists, name):
                raise Refused(f"there is no conversation {name!r}: run_code or upload begins one")
            # Another call may have begun the conversation meanwhile.
            conversation = self._conversations.get(name) or self._begin(name)
        conversation.calls += 1
        try:
            await to_thread.run_sync(self.folders.make, name)
            yield conversation
        finally:
            conversation.calls -= 1
            conversation.used_at = anyio.current_time()

    @asynccontextmanager
    async def turn(self, conversation: Conversation) -> AsyncGenerator[None]:
        """Wait until no other call of the conversation runs code, and hold others off.

        Raises:
            Refused: too many calls wait.
        """
        if conversation.turn.statistics().tasks_waiting >= self.limits.waiting_calls:
            raise Refused(
                f"{self.limits.waiting_calls} calls wait for conversation {conversation.name!r}: "
                "wait for their results, or interrupt the code that runs"
            )
        async with conversation.turn:
            # The conversation may have been reset while this call waited.
            await to_thread.run_sync(self.folders.make, conversation.name)
            yield

    async def kernel(self, conversation: Conversation, kernel_type: str) -> Kernel:
        """Return a conversation's kernel of a type, ready to run code; hold the turn meanwhile.

        Raises:
            Refused: there is no room for another kernel.
            KernelProtoError: the kernel cannot be started.
        """
        seat = conversation.seat(kernel_type)
        await self._stop_unfinished(conversation, seat)
        return await self._kernels.get(
            conversation.name,
            seat,
            self.folders.path(conversation.name),
            lambda: self._spares(conversation, seat),
        )

    def note_loss(self, conversation: Conversation, kernel_type: str, *, told: bool) -> None:
        """Note after a call whether the kernel had lost its variables before the code ran.

        Args:
            conversation: the conversation.
            kernel_type: the type of the kernel.
            told: whether the result of the call says that the variables are lost.
        """
        seat = conversation.seat(kernel_type)
        if told:
            seat.process_since = None  # the next process may not have begun
            return
        described = self._kernels.describe(conversation.name, seat)
        if described is None:
            return
        known, seat.process_since = seat.process_since, described.process_started_at
        if known is not None and known != described.process_started_at:
            reason = described.previous_end or described.last_death or "the kernel was restarted"
            conversation.note(f"{reason}: all variables are lost, the files are kept")

    async def interrupt(self, conversation: Conversation) -> bool:
        """Interrupt the code that runs; return whether any did."""
        running = conversation.running
        if running is None or _is_over(running):
            return False
        await running.interrupt()
        return True

    async def reset(self, conversation: Conversation, *, files: bool) -> None:
        """End a conversation's kernels; with *files* also remove the files and the conversation."""
        conversation.resets += 1
        await self._release(conversation)
        async with conversation.turn:
            await self._release(conversation)  # of a call that waited for the turn
            conversation.take_notes()
            if files:
                await to_thread.run_sync(self.folders.clear, conversation.name)
                conversation.saved.clear()
                if conversation.calls == 1:  # this one
                    self._forget(conversation)

    def _begin(self, name: str) -> Conversation:
        if len(self._conversations) >= self.limits.conversations:
            raise Refused(
                f"there are {self.limits.conversations} conversations, as many as allowed: use one "
                "of them, or end one with reset(conversation=..., files=true). They are: "
                + ", ".join(self.names)
            )
        conversation = self._conversations[name] = Conversation(name)
        if name in self._expired:
            del self._expired[name]
            conversation.note(self._expiry_note())
        return conversation

    def _forget(self, conversation: Conversation) -> None:
        self._conversations.pop(conversation.name, None)

    def _expiry_note(self) -> str:
        lost = "variables and files" if self._temporary else "variables"
        return (
            f"the conversation had no call for {self.limits.expires:g} s and was ended: its {lost} "
            "are lost"
        )

    async def end(self) -> None:
        """End the kernels of all conversations, and the files if they are temporary."""
        async with anyio.create_task_group() as tasks:
            for conversation in list(self._conversations.values()):
                tasks.start_soon(self._expire, conversation)

    async def _release(self, conversation: Conversation) -> None:
        for seat in conversation.seats:
            await self._kernels.release(conversation.name, seat)
        conversation.forget_kernels()

    async def _stop_unfinished(self, conversation: Conversation, seat: KernelSeat) -> None:
        """Wait for the end of cancelled code, or else restart the kernel."""
        execution = seat.unfinished
        if execution is None:
            return
        with anyio.move_on_after(_STOP_SECONDS):
            try:
                async for _ in execution:
                    pass
            except KernelProtoError:
                pass  # the outcome is not needed
        if not _is_over(execution):
            # If this call is cancelled meanwhile, the next one restarts the kernel.
            await self._kernels.restart(conversation.name, seat)
            seat.process_since = None
            conversation.note(
                "the code of a cancelled call ignored its interrupt, so the kernel was restarted: "
                "all variables are lost, the files are kept"
            )
        seat.unfinished = None

    def _spares(self, conversation: Conversation, needed: KernelSeat) -> list[KernelSeat]:
        """Return the kernels that run no code, for a call that holds the conversation's turn."""
        idle = sorted(
            (other for other in self._conversations.values() if not other.turn.locked()),
            key=lambda other: other.used_at,
        )
        return [
            seat
            for other in [*idle, conversation]
            for seat in other.seats
            if seat is not needed and self._kernels.describe(other.name, seat) is not None
        ]

    async def _keep_time(self) -> None:
        while True:
            await anyio.sleep(min(_EXAMINE_SECONDS, self.limits.expires))
            latest = anyio.current_time() - self.limits.expires
            for conversation in list(self._conversations.values()):
                if not conversation.calls and conversation.used_at <= latest:
                    await self._expire(conversation)

    async def _expire(self, conversation: Conversation) -> None:
        """End a conversation that no call uses; a call that comes meanwhile waits for the end."""
        name = conversation.name
        self._forget(conversation)
        ended = self._ending[name] = anyio.Event()
        try:
            await self._release(conversation)
            if self._temporary:
                await to_thread.run_sync(self.folders.clear, name)
        finally:
            del self._ending[name]
            ended.set()
        self._expired[name] = None
        if len(self._expired) > _MOST_EXPIRED:
            self._expired.popitem(last=False)


def _is_over(execution: Execution) -> bool:
    return execution.state == "done"
