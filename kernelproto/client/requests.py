"""Every typed request, written once over the one that sends and awaits a reply."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from kernelproto.client.execution import Execution, ExecutionOptions
from kernelproto.client.questions import OnInput
from kernelproto.client.stopping import OnTimeout
from kernelproto.exceptions import LocalProtocolError, RemoteProtocolError, UnsupportedRequest
from kernelproto.wire import content
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame, Message

ReplyT = TypeVar("ReplyT", bound=content.Reply)

# Names of features, as kernel_info_reply lists them (JEP 92).
_SUBSHELLS = "kernel subshells"
_DEBUGGER = "debugger"

# Every request of the Debug Adapter Protocol has a number higher than the one before.
_debug_sequence = itertools.count(1)


class Requests(ABC):
    """The requests to a kernel; the client and the kernel handle both offer them.

    Every request raises:
        UnsupportedRequest: the kernel does not know it. Few kernels say so; the others go on
            without a reply. It is raised 2 s after the kernel has gone on, or 6 s after the request
            if the kernel is silent on control. While the kernel is busy with it, or has not
            come to it yet, the call waits without limit.
        KernelDied: the kernel's process has ended, before or while the reply was awaited.
        ClientClosed: the client was closed.
        MalformedMessage: the reply cannot be read.
    """

    @abstractmethod
    async def request(
        self,
        msg_type: str,
        content: content.Request | Mapping[str, Any],
        channel: ChannelName = "shell",
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
        subshell_id: str | None = None,
    ) -> Message:
        """Send any request and wait for its reply.

        Args:
            msg_type: ends in ``_request``.
            content: a Struct of ``kernelproto.wire.content`` or a mapping.
            channel: "shell" or "control".
            metadata: the message's metadata.
            buffers: binary frames that follow the content.
            subshell_id: the subshell that a shell request is meant for.

        Raises:
            UnsupportedRequest: the kernel has dealt with it and not replied.
            LocalProtocolError: it is no request, or its content cannot be written as JSON.
        """

    @property
    @abstractmethod
    def info(self) -> content.KernelInfoReply | None:
        """The kernel_info_reply; None before the kernel has sent it."""

    @abstractmethod
    async def heartbeat(self) -> float:
        """Send a heartbeat and wait for its echo. Specification: "Heartbeat for kernels".

        Returns:
            How long it took, in seconds.
        """

    @abstractmethod
    async def interrupt(self) -> object:
        """Interrupt the running code."""

    @abstractmethod
    def new_execution(
        self, request: content.ExecuteRequest, options: ExecutionOptions
    ) -> Execution:
        """Return the Execution of *request*, not sent yet."""

    def execute(
        self,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        user_expressions: Mapping[str, str] | None = None,
        allow_stdin: bool | None = None,
        stop_on_error: bool = True,
        on_input: OnInput | None = None,
        subshell_id: str | None = None,
        timeout: float | None = None,
        on_timeout: OnTimeout = "raise",
        idle_timeout: float | None = None,
        interrupt_on_cancel: bool = False,
    ) -> Execution:
        """Run code; see Execution for the ways to wait for the result.

        Args:
            code: the code, in the kernel's language.
            silent: run it without output, history or execution count.
            store_history: whether the code goes into the kernel's history.
            user_expressions: name to expression; evaluated after the code, and found in the result.
            allow_stdin: whether the code may ask for input; None means when there is an *on_input*.
            stop_on_error: whether an error makes the kernel abort the executions queued behind it.
            on_input: called with an InputRequest when the code asks for input; returns the answer.
                An async function, or a plain one, which runs in a worker thread.
            subshell_id: the subshell to run it in, beside what the main shell runs.
            timeout: how many seconds the code may run, from when the kernel begins it; waiting in
                the kernel's queue does not count. Then it is interrupted, and when it has ended the
                execution raises ExecutionTimeout, which carries the result. To limit the waiting
                instead, put ``anyio.fail_after`` around it.
            on_timeout: what happens if the code goes on for ``Timeouts.interrupt`` seconds after
                the interrupt: "raise" raises KernelUnresponsive; "restart" restarts the kernel and
                raises ExecutionTimeout. Only a Kernel can be restarted, not a KernelClient.
            idle_timeout: after so many seconds of silence after the reply, the execution ends
                although the kernel has not reported "idle"; the result's ``outputs_complete`` is
                then False. None means to wait for "idle".
            interrupt_on_cancel: whether cancelling the task that waits interrupts the code, which
                otherwise goes on. Code whose turn has not come yet is interrupted when it comes.

        Raises:
            LocalProtocolError: *allow_stdin* is True without *on_input*, *timeout* is negative, or
                the kernel cannot be restarted *on_timeout*.
            UnsupportedRequest: a *subshell_id* is given and the kernel has no subshells.

        Specification: "Execute".
        """
        if allow_stdin and on_input is None:
            raise LocalProtocolError("allow_stdin=True needs an on_input to answer with")
        if on_timeout not in ("raise", "restart"):
            raise LocalProtocolError(f'on_timeout must be "raise" or "restart", not {on_timeout!r}')
        if timeout is None and on_timeout == "restart":
            raise LocalProtocolError('on_timeout="restart" needs a timeout')
        if timeout is not None and not timeout >= 0:
            raise LocalProtocolError(f"timeout must be seconds, 0 or more, not {timeout!r}")
        if subshell_id is not None:
            self._require(_SUBSHELLS)
        request = content.ExecuteRequest(
            code=code,
            silent=silent,
            store_history=store_history and not silent,
            user_expressions=dict(user_expressions or {}),
            allow_stdin=on_input is not None if allow_stdin is None else allow_stdin,
            stop_on_error=stop_on_error,
        )
        options = ExecutionOptions(
            on_input=on_input,
            subshell_id=subshell_id,
            timeout=timeout,
            on_timeout=on_timeout,
            idle_timeout=idle_timeout,
            interrupt_on_cancel=interrupt_on_cancel,
        )
        return self.new_execution(request, options)

    async def kernel_info(self) -> content.KernelInfoReply:
        """Ask what the kernel is and can do. Specification: "Kernel info"."""
        return await self._ask(content.KernelInfoRequest(), content.KernelInfoReply)

    async def complete(self, code: str, cursor_pos: int | None = None) -> content.CompleteReply:
        """Ask for completions. Specification: "Completion".

        Args:
            code: the code around the cursor.
            cursor_pos: the cursor's position in characters; None means the end.
        """
        position = len(code) if cursor_pos is None else cursor_pos
        request = content.CompleteRequest(code=code, cursor_pos=position)
        return await self._ask(request, content.CompleteReply)

    async def inspect(
        self, code: str, cursor_pos: int | None = None, detail_level: int = 0
    ) -> content.InspectReply:
        """Ask what is known about the object at the cursor. Specification: "Introspection".

        Args:
            code: the code around the cursor.
            cursor_pos: the cursor's position in characters; None means the end.
            detail_level: 0, or 1 for more, such as source code.
        """
        position = len(code) if cursor_pos is None else cursor_pos
        request = content.InspectRequest(code=code, cursor_pos=position, detail_level=detail_level)
        return await self._ask(request, content.InspectReply)

    async def is_complete(self, code: str) -> content.IsCompleteReply:
        """Ask whether code is ready to run. Specification: "Code completeness"."""
        return await self._ask(content.IsCompleteRequest(code=code), content.IsCompleteReply)

    async def history(
        self,
        hist_access_type: str = "tail",
        *,
        n: int | None = 10,
        session: int | None = None,
        start: int | None = None,
        stop: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
        output: bool = False,
        raw: bool = True,
    ) -> content.HistoryReply:
        """Ask for earlier inputs. Specification: "History".

        Args:
            hist_access_type: "tail" for the last *n*, "range" for the lines from *start* to before
                *stop* of *session*, "search" for the last *n* that match the glob *pattern*.
            n: how many entries.
            session: counted from 1, or backwards from 0, the current one.
            start: the first line number.
            stop: the line number after the last.
            pattern: a glob pattern.
            unique: leave out repeated entries.
            output: include the outputs.
            raw: the code as typed, not as transformed.
        """
        fields = {
            "hist_access_type": hist_access_type,
            "n": n,
            "session": session,
            "start": start,
            "stop": stop,
            "pattern": pattern,
            "unique": unique,
            "output": output,
            "raw": raw,
        }
        # Those that do not matter are left out: a kernel in C++ may take no null for a number.
        request = {name: value for name, value in fields.items() if value is not None}
        return content_of(await self.request("history_request", request), content.HistoryReply)

    async def comm_info(self, target_name: str | None = None) -> content.CommInfoReply:
        """Ask which comms are open, of one target or of all. Specification: "Comm info"."""
        request = content.CommInfoRequest(target_name=target_name)
        return await self._ask(request, content.CommInfoReply)

    async def create_subshell(self) -> content.CreateSubshellReply:
        """Make a subshell, which runs code beside the main shell. Specification: JEP 91.

        Raises:
            UnsupportedRequest: the kernel has no subshells.
        """
        self._require(_SUBSHELLS)
        request = content.CreateSubshellRequest()
        return await self._ask(request, content.CreateSubshellReply, "control")

    async def delete_subshell(self, subshell_id: str) -> content.DeleteSubshellReply:
        """End a subshell. Specification: JEP 91.

        Raises:
            UnsupportedRequest: the kernel has no subshells.
        """
        self._require(_SUBSHELLS)
        request = content.DeleteSubshellRequest(subshell_id=subshell_id)
        return await self._ask(request, content.DeleteSubshellReply, "control")

    async def list_subshells(self) -> content.ListSubshellReply:
        """Ask for the ids of the subshells. Specification: JEP 91.

        Raises:
            UnsupportedRequest: the kernel has no subshells.
        """
        self._require(_SUBSHELLS)
        request = content.ListSubshellRequest()
        return await self._ask(request, content.ListSubshellReply, "control")

    async def debug(
        self, command: str, arguments: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request of the Debug Adapter Protocol. Specification: "Debug request".

        Args:
            command: for example "setBreakpoints".
            arguments: its arguments.

        Returns:
            The response, as the Debug Adapter Protocol has it: ``success``, ``body``, ``message``.

        Raises:
            UnsupportedRequest: the kernel has no debugger.
        """
        self._require(_DEBUGGER)
        request = {
            "type": "request",
            "seq": next(_debug_sequence),
            "command": command,
            "arguments": dict(arguments or {}),
        }
        reply = await self.request("debug_request", request, "control")
        return cast("dict[str, Any]", reply.content)

    async def usage(self) -> content.UsageReply:
        """Ask how much memory and CPU the kernel uses; an extension of ipykernel.

        Raises:
            UnsupportedRequest: the kernel does not know this request.
        """
        return await self._ask(content.UsageRequest(), content.UsageReply, "control")

    def _require(self, feature: str) -> None:
        info = self.info
        if info is None or feature in info.supported_features:
            return
        # Older kernels say it in a field of its own.
        if feature == _DEBUGGER and info.debugger:
            return
        raise UnsupportedRequest(
            f"{info.implementation or 'this kernel'} has no {feature!r}: "
            f"its supported_features are {info.supported_features}"
        )

    async def _ask(
        self, request: content.Request, reply_type: type[ReplyT], channel: ChannelName = "shell"
    ) -> ReplyT:
        return content_of(
            await self.request(content.message_type(type(request)), request, channel), reply_type
        )


def content_of(reply: Message, reply_type: type[ReplyT]) -> ReplyT:
    """Return the content of a reply.

    Raises:
        RemoteProtocolError: it is the reply to something else.
        MalformedMessage: it cannot be read.
    """
    found = reply.content
    if not isinstance(found, reply_type):
        raise RemoteProtocolError(
            f"a {content.message_type(reply_type)} was awaited, not a {reply.msg_type}"
        )
    return found
