"""Runs: the executions of one context, and the lines of events that their clients read.

Theory of operation
-------------------
A task of the kernel performs each run, so a run does not depend on the connection of a client. The
task appends a line for each output. A reader has a position among the lines of a run, and a run may
have several readers: a client that repeats a request with the same Idempotency-Key reads the same
run, from the first line.

The policy for memory. All runs of a context together keep at most ``limit`` bytes of lines. Beyond
that, the oldest lines of the oldest run are dropped, and each reader that has not read them gets an
event with their number. A run without a key drops its lines as soon as they are read, and is
forgotten at its end. Of the runs with a key that have ended, the last MOST_REMEMBERED stay, each
for ``seconds``. The last line of a run, which has the result, is never dropped.

The policy for clients that leave. When the last reader leaves a run, the code is interrupted,
unless the client has asked for the opposite. If the run has a key, the client may come back within
REJOIN_SECONDS.
"""

from __future__ import annotations

import time
from contextlib import suppress

import anyio
from starlette.exceptions import HTTPException

from kernelproto.client.execution import Execution, ExecutionOptions
from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import (
    ClientClosed,
    ExecutionTimeout,
    KernelProtoError,
    MalformedMessage,
)
from kernelproto.remote.events import (
    EndOfExecution,
    NumberOfExecutions,
    OutputsLost,
    encode_event,
    encode_output,
    encode_refusal,
)
from kernelproto.remote.models import ExecuteRequest
from kernelproto.server.contexts.results import failure_event, result_event
from kernelproto.supervise import Kernel
from kernelproto.wire import content
from kernelproto.wire.message import Message
from kernelproto.wire.refusals import RefusedOutput

# The number of runs of a context that have not ended.
MOST_OPEN = 32

# The number of runs that have ended and are kept for requests with the same Idempotency-Key.
MOST_REMEMBERED = 100

MOST_READERS = 8

REJOIN_SECONDS = 10.0

# Memory for a line in addition to the bytes of the line.
_OBJECT_BYTES = 200

# A reader takes about so many bytes at once.
_CHUNK_BYTES = 64 * 1024

# The stand-in for a refused message is shorter.
_MOST_STAND_IN_BYTES = 1000


class Runs:
    """The runs of one context.

    Args:
        kernel: performs the runs.
        limit: the maximum size of all lines, in bytes.
        seconds: the time that a run with a key is kept after its end.
    """

    def __init__(self, kernel: Kernel, *, limit: int, seconds: float) -> None:
        self._kernel = kernel
        self._limit = limit
        self._seconds = seconds
        self._size = 0
        self._runs: dict[int, Run] = {}
        self._count = 0

    def find(self, key: str) -> Run | None:
        """Return the run with a key."""
        self._forget()
        return next((run for run in self._runs.values() if run.key == key), None)

    def start(self, request: ExecuteRequest, *, key: str | None = None) -> Run:
        """Start a run.

        Args:
            request: the code and its options.
            key: the Idempotency-Key of the request, different for each run.

        Raises:
            HTTPException: 429, too many runs have not ended.
        """
        self._forget()
        if sum(not run.ended for run in self._runs.values()) >= MOST_OPEN:
            raise HTTPException(
                429,
                f"{MOST_OPEN} executions of this context have not ended: wait for their ends, or "
                "interrupt it",
            )
        run = Run(self, self._count, request, key)
        self._runs[self._count] = run
        self._count += 1
        self._kernel.start_task(run.serve, self._kernel)
        return run

    def add(self, size: int) -> None:
        """Count the size of a line that a run has added; drop lines beyond the limit."""
        self._size += size
        while self._size > self._limit:
            oldest = next((run for run in self._runs.values() if run.begin < run.end), None)
            if oldest is None:
                return
            oldest.drop_first()

    def subtract(self, size: int) -> None:
        """Count the size of a line that a run has dropped."""
        self._size -= size

    def end(self, run: Run) -> None:
        """Note that a run has ended, or that an ended run has lost its last reader."""
        if run.key is None and run.ended and not run.readers:
            self._remove(run)

    def interrupt(self, run: Run, seconds: float) -> None:
        """Interrupt a run after some seconds, unless the run has a reader then."""
        self._kernel.start_task(run.interrupt_if_alone, seconds)

    def _forget(self) -> None:
        latest = anyio.current_time() - self._seconds
        ended = [run for run in self._runs.values() if run.ended and not run.readers]
        for number, run in enumerate(ended):
            if run.ended_at < latest or number < len(ended) - MOST_REMEMBERED:
                self._remove(run)

    def _remove(self, run: Run) -> None:
        if self._runs.pop(run.number, None) is not None:
            run.clear()


class Run:
    """One execution, with its lines.

    Args:
        runs: all runs of the context.
        number: the number among all runs of the context.
        request: the code and its options.
        key: the Idempotency-Key.

    Attributes:
        begin: the number of the first line that is kept.
        end: the number of the next line.
        readers: the number of readers.
        ended_at: when the run ended, on the clock of the event loop; 0 before.
        news: rings when there is a new line.
    """

    def __init__(self, runs: Runs, number: int, request: ExecuteRequest, key: str | None) -> None:
        self.number = number
        self.request = request
        self.key = key
        self.begin = 0
        self.end = 0
        self.readers = 0
        self.ended_at = 0.0
        self.news = Bell()
        self._runs = runs
        self._lines: dict[int, bytes] = {}
        self._last: EndOfExecution | None = None
        self._complete = True
        self._execution: Execution | None = None
        self._interrupted = False

    @property
    def ended(self) -> bool:
        """Whether the run has the last line."""
        return self._last is not None

    async def serve(self, kernel: Kernel) -> None:
        """Perform the run; a task of the kernel."""
        last = failure_event(ClientClosed("the kernel was shut down", ended="released"))
        try:
            self._execution = self._prepare(kernel)
            if self._interrupted:
                await self._execution.interrupt()
            last = result_event(await self._execution)
        except ExecutionTimeout as error:
            last = result_event(error.result, failure=error)
        except KernelProtoError as error:
            last = failure_event(error)
        finally:
            self._finish(last)

    async def interrupt(self) -> None:
        """Interrupt the code, at once or as soon as it begins.

        Raises:
            KernelProtoError: as for ``Execution.interrupt``.
        """
        self._interrupted = True
        if self._execution is not None:
            await self._execution.interrupt()

    async def interrupt_if_alone(self, seconds: float) -> None:
        """Interrupt the code after some seconds, unless the run has a reader then."""
        await anyio.sleep(seconds)
        if not self.readers and not self.ended:
            with suppress(KernelProtoError):  # the last line has the outcome
                await self.interrupt()

    def join(self) -> Reader:
        """Return a new reader, which must leave.

        Raises:
            HTTPException: 429, the run has too many readers.
        """
        if self.readers >= MOST_READERS:
            raise HTTPException(429, f"{MOST_READERS} clients read this execution already")
        self.readers += 1
        return Reader(self)

    def leave(self) -> None:
        """Take note that a reader has left."""
        self.readers -= 1
        if self.readers:
            return
        if self.ended:
            self._runs.end(self)
        elif self.request.on_disconnect == "interrupt":
            self._runs.interrupt(self, 0.0 if self.key is None else REJOIN_SECONDS)

    def line(self, number: int) -> bytes:
        """Return a line."""
        return self._lines[number]

    def last_line(self, *, complete: bool) -> bytes:
        """Return the last line for a reader, that of a run that has ended.

        Args:
            complete: whether the reader was given all other lines.
        """
        assert self._last is not None
        last = self._last
        complete = complete and self._complete
        end = EndOfExecution(last.status, last.execution_count, complete, last.error, last.failure)
        return encode_event(end)

    def drop_first(self) -> None:
        """Drop the first line."""
        size = len(self._lines.pop(self.begin)) + _OBJECT_BYTES
        self.begin += 1
        self._runs.subtract(size)

    def drop_read(self, position: int) -> None:
        """Drop the lines before a position, which no later reader needs."""
        if self.key is None:
            while self.begin < position:
                self.drop_first()

    def clear(self) -> None:
        """Drop all lines."""
        while self.begin < self.end:
            self.drop_first()

    def _prepare(self, kernel: Kernel) -> Execution:
        request = self.request
        return kernel.new_execution(
            content.ExecuteRequest(
                code=request.code,
                silent=request.silent,
                store_history=request.store_history and not request.silent,
                allow_stdin=False,
                stop_on_error=request.stop_on_error,
            ),
            ExecutionOptions(
                timeout=request.timeout,
                on_timeout=request.on_timeout,
                on_output=self._take,
            ),
        )

    def _take(self, message: Message) -> None:
        now = time.time_ns()
        raw = message.raw_content
        try:
            if len(raw) < _MOST_STAND_IN_BYTES and isinstance(message.content, RefusedOutput):
                self._complete = False
            line = encode_output(message.msg_type, raw, now)
        except MalformedMessage as error:
            self._complete = False
            line = encode_refusal(message.msg_type, error, now)
        self._append(line)

    def _append(self, line: bytes) -> None:
        self._lines[self.end] = line
        self.end += 1
        self._runs.add(len(line) + _OBJECT_BYTES)
        self.news.ring()

    def _finish(self, last: EndOfExecution) -> None:
        if last.execution_count is not None:
            self._append(encode_event(NumberOfExecutions(last.execution_count)))
        self._last = last
        self.ended_at = anyio.current_time()
        self._runs.end(self)
        self.news.ring()


class Reader:
    """A position among the lines of a run.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._position = 0
        self._complete = True
        self._at_end = False
        self._left = False

    @property
    def at_end(self) -> bool:
        """Whether the reader has the last line."""
        return self._at_end

    async def wait(self) -> None:
        """Wait for a change; call this when ``take`` has returned no lines."""
        await self._run.news.wait()

    def wake(self) -> None:
        """Wake the task that waits."""
        self._run.news.ring()

    def leave(self) -> None:
        """End the reading; may be called again."""
        if not self._left:
            self._left = True
            self._run.leave()

    def take(self) -> list[bytes]:
        """Return the next lines; empty if there is none yet, or no more."""
        run = self._run
        lines: list[bytes] = []
        if self._position < run.begin:
            self._complete = False
            lines.append(encode_event(OutputsLost(run.begin - self._position)))
            self._position = run.begin
        size = 0
        while self._position < run.end and size < _CHUNK_BYTES:
            line = run.line(self._position)
            lines.append(line)
            size += len(line)
            self._position += 1
        run.drop_read(self._position)
        if self._position == run.end and run.ended and not self._at_end:
            self._at_end = True
            lines.append(run.last_line(complete=self._complete))
        return lines
