"""Requests: every typed request, on top of one method that sends a request and awaits the reply."""

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
    """The requests to a kernel, common to KernelClient and Kernel.

    Every request raises:
        UnsupportedRequest: the kernel does not support the request. Few kernels report that; the
            others go on without a reply. The exception is raised 2 s after the kernel has gone on,
            or 6 s after the request if the kernel is silent on control. While the kernel works on
            the request or on earlier ones, the call waits without limit.
        ReplyLost: the kernel has begun the request, has answered a later one on the same channel,
            and sent no reply within 60 s after that.
        KernelDied: the kernel's process has ended, before or during the request.
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
        """Send any request and wait for the reply.

        Args:
            msg_type: ends in ``_request``.
            content: a Struct of ``kernelproto.wire.content`` or a mapping.
            channel: "shell" or "control".
            metadata: the message's metadata.
            buffers: binary frames that follow the content.
            subshell_id: the subshell that serves a shell request.

        Raises:
            UnsupportedRequest: the kernel has gone on without a reply.
            LocalProtocolError: *msg_type* is not a request, or the content cannot be written as
                JSON.
        """

    @property
    @abstractmethod
    def info(self) -> content.KernelInfoReply | None:
        """The kernel_info_reply; None before it has arrived."""

    @abstractmethod
    async def heartbeat(self) -> float:
        """Send a heartbeat and wait for the echo. Specification: "Heartbeat for kernels".

        Returns:
            The round-trip time in seconds.
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
            silent: run the code without output, history or execution count.
            store_history: whether the code goes into the kernel's history.
            user_expressions: name to expression; evaluated after the code, for the result.
            allow_stdin: whether the code may ask for input; None means: if *on_input* is given.
            stop_on_error: whether an error makes the kernel abort the executions in its queue.
            on_input: called with an InputRequest when the code asks for input; returns the answer.
                An async function, or a plain one, which runs in a worker thread.
            subshell_id: the subshell to run the code in, in parallel with the main shell.
            timeout: the number of seconds that the code may run; waiting in the kernel's queue does
                not count. Then the code is interrupted, and at the end the execution raises
                ExecutionTimeout, which carries the result. To limit your own waiting instead, use
                ``anyio.fail_after``.
            on_timeout: the action if the code goes on for ``Timeouts.interrupt`` seconds after the
                interrupt: "raise" raises KernelUnresponsive; "restart" restarts the kernel and
                raises ExecutionTimeout. Only a Kernel can be restarted, not a KernelClient.
            idle_timeout: the seconds of silence after the reply that end the execution if the
                kernel does not report "idle"; the result's ``outputs_complete`` is then False. None
                means to wait for "idle".
            interrupt_on_cancel: whether cancelling the waiting task interrupts the code, which
                otherwise goes on. Code that does not run yet is interrupted as soon as it begins.

        Raises:
            LocalProtocolError: *allow_stdin* is True without *on_input*, *timeout* is negative, or
                the kernel cannot be restarted *on_timeout*.
            UnsupportedRequest: *subshell_id* is given and the kernel does not support subshells.

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
        """Ask for the kernel's name, language and features. Specification: "Kernel info"."""
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
        """Ask for a description of the object at the cursor. Specification: "Introspection".

        Args:
            code: the code around the cursor.
            cursor_pos: the cursor's position in characters; None means the end.
            detail_level: 0, or 1 for more details, such as source code.
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
            n: the number of entries.
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
        # Unused fields are left out: some kernels in C++ do not accept null for a number.
        request = {name: value for name, value in fields.items() if value is not None}
        return content_of(await self.request("history_request", request), content.HistoryReply)

    async def comm_info(self, target_name: str | None = None) -> content.CommInfoReply:
        """Ask which comms are open, of one target or of all. Specification: "Comm info"."""
        request = content.CommInfoRequest(target_name=target_name)
        return await self._ask(request, content.CommInfoReply)

    async def create_subshell(self) -> content.CreateSubshellReply:
        """Create a subshell, which runs code beside the main shell. Specification: JEP 91.

        Raises:
            UnsupportedRequest: the kernel has no subshells.
        """
        self._require(_SUBSHELLS)
        request = content.CreateSubshellRequest()
        return await self._ask(request, content.CreateSubshellReply, "control")

    async def delete_subshell(self, subshell_id: str) -> content.DeleteSubshellReply:
        """Delete a subshell. Specification: JEP 91.

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
            arguments: the arguments.

        Returns:
            The response of the Debug Adapter Protocol: ``success``, ``body``, ``message``.

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
            UnsupportedRequest: the kernel does not support this request.
        """
        return await self._ask(content.UsageRequest(), content.UsageReply, "control")

    def _require(self, feature: str) -> None:
        info = self.info
        if info is None or feature in info.supported_features:
            return
        # Older kernels have a separate field for the debugger.
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
        RemoteProtocolError: the reply has another type.
        MalformedMessage: the reply cannot be read.
    """
    found = reply.content
    if not isinstance(found, reply_type):
        raise RemoteProtocolError(
            f"expected a {content.message_type(reply_type)}, received a {reply.msg_type}"
        )
    return found
