"""The entry points for synchronous code: the asynchronous ones, called through a portal.

An event loop runs in a thread while any blocking kernel or client is open. All blocking kernels
share this thread, and may be used from any thread, even from one with another event loop. A forked
child opens kernels in a new event loop, and cannot use the kernels of its parent.

The first Ctrl-C while code runs interrupts the code; the second one raises KeyboardInterrupt.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    contextmanager,
)
from functools import partial, wraps
from queue import SimpleQueue
from typing import Concatenate, ParamSpec, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal

from kernelproto.client.client import KernelClient
from kernelproto.client.questions import OnInput
from kernelproto.client.requests import Requests
from kernelproto.client.result import ExecutionResult
from kernelproto.concurrency.process_owner import Owner
from kernelproto.interfaces import KernelHandle
from kernelproto.launch.finder import KernelFinder
from kernelproto.run import (
    ConnectionSource,
    RunOptions,
    adopt_kernel,
    connect_kernel,
    run_kernel,
    start_kernel,
)
from kernelproto.supervise.kernel import Kernel, KernelState
from kernelproto.terminal import ask_on_terminal, print_output
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo
from kernelproto.wire.content import Output

P = ParamSpec("P")
T = TypeVar("T")


class _EventLoop:
    """An event loop in a thread, while any blocking kernel or client is open.

    anyio's BlockingPortalProvider does not work in a forked child: leaving the portal waits
    indefinitely for a thread that runs only in the parent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._portal: Future[BlockingPortal] | None = None
        self._thread: threading.Thread

    def __enter__(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                future: Future[BlockingPortal] = Future()
                self._thread = threading.Thread(
                    target=self._run, args=[future], name="kernelproto-blocking", daemon=True
                )
                self._thread.start()
                self._portal = future
            try:
                portal = self._portal.result()
            except Exception:
                self._portal = None
                raise
            self._users += 1
            return portal

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._portal is None:
                return
            portal, self._portal = self._portal.result(), None
            portal.call(portal.stop)
            self._thread.join()

    @staticmethod
    def _run(future: Future[BlockingPortal]) -> None:
        async def serve() -> None:
            async with BlockingPortal() as portal:
                future.set_result(portal)
                await portal.sleep_until_stopped()

        try:
            anyio.run(serve)
        except BaseException as error:
            if future.done():
                raise
            future.set_exception(error)  # no file descriptors are left


_event_loop = _EventLoop()


def _after_fork_in_child() -> None:
    global _event_loop
    _event_loop = _EventLoop()  # the old thread runs only in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _blocking(
    method: Callable[Concatenate[Requests, P], Awaitable[T]],
) -> Callable[Concatenate[BlockingRequests, P], T]:
    """Return the blocking form of an async method: the same arguments, result and exceptions."""

    @wraps(method)
    def call(self: BlockingRequests, /, *args: P.args, **kwargs: P.kwargs) -> T:
        # Looked up by name, because the wrapped object overrides abstract methods of Requests.
        bound: Callable[P, Awaitable[T]] = getattr(self.wrapped, method.__name__)

        async def run() -> T:
            return await bound(*args, **kwargs)

        return self.wait_for(run)

    return call


class BlockingRequests:
    """Every request, as a call that returns when the reply has arrived.

    Arguments, results and exceptions are those of the methods of the same names of ``Kernel`` and
    ``KernelClient``; ``execute`` waits for the end and returns the ExecutionResult.

    Args:
        portal: calls functions in the event loop.
        wrapped: the asynchronous kernel or client.
    """

    def __init__(self, portal: BlockingPortal, wrapped: Requests) -> None:
        self.portal = portal
        self.wrapped = wrapped
        self.owner = Owner()

    execute = _blocking(Requests.execute)
    kernel_info = _blocking(Requests.kernel_info)
    complete = _blocking(Requests.complete)
    inspect = _blocking(Requests.inspect)
    is_complete = _blocking(Requests.is_complete)
    history = _blocking(Requests.history)
    comm_info = _blocking(Requests.comm_info)
    create_subshell = _blocking(Requests.create_subshell)
    delete_subshell = _blocking(Requests.delete_subshell)
    list_subshells = _blocking(Requests.list_subshells)
    debug = _blocking(Requests.debug)
    usage = _blocking(Requests.usage)
    request = _blocking(Requests.request)
    heartbeat = _blocking(Requests.heartbeat)
    interrupt = _blocking(Requests.interrupt)

    def execute_interactive(
        self,
        code: str,
        *,
        on_output: Callable[[Output], None] | None = None,
        on_input: OnInput | None = None,
    ) -> ExecutionResult:
        """Run code as in a terminal: print outputs as they arrive, and ask for input.

        Args:
            code: the code, in the kernel's language.
            on_output: called with every output, in this thread; None prints text and tracebacks.
            on_input: called when the code asks for input, in another thread; None asks on the
                terminal, without echo for passwords.
        """
        show = on_output or print_output
        outputs: SimpleQueue[Output | None] = SimpleQueue()

        async def run() -> ExecutionResult:
            execution = self.wrapped.execute(code, on_input=on_input or ask_on_terminal)
            try:
                async for output in execution:
                    outputs.put(output)
                return await execution
            finally:
                outputs.put(None)

        over = False

        def show_until_over(future: Future[ExecutionResult]) -> ExecutionResult:
            nonlocal over
            while not over:
                output = outputs.get()
                if output is None:
                    over = True
                else:
                    show(output)
            return future.result()

        return self.wait_for(run, show_until_over)

    def wait_for(
        self, function: Callable[[], Awaitable[T]], wait: Callable[[Future[T]], T] | None = None
    ) -> T:
        """Run an async function in the event loop and wait for it.

        Args:
            function: the async function.
            wait: called with the future; waits for the future and returns its result. Called again
                after the first Ctrl-C, which interrupts the kernel.

        Raises:
            WrongProcess: the kernel belongs to the parent of this forked process.
        """
        self.owner.check("kernel")
        wait = wait or _result_of
        future = self.portal.start_task_soon(function)
        try:
            return wait(future)
        except KeyboardInterrupt:
            if future.done():
                raise
        self.portal.call(self.wrapped.interrupt)
        try:
            return wait(future)
        except KeyboardInterrupt:
            future.cancel()
            raise


def _result_of(future: Future[T]) -> T:
    return future.result()


class BlockingClient(BlockingRequests):
    """A KernelClient for synchronous code; made by ``connect_kernel_blocking``."""

    wrapped: KernelClient

    @property
    def connection_info(self) -> ConnectionInfo:
        """The addresses and keys of the kernel."""
        return self.wrapped.connection_info

    @property
    def busy(self) -> bool:
        """Whether the kernel is busy with a request of any client, as far as this client knows."""
        self.owner.check("client")
        return self.wrapped.busy


class BlockingKernel(BlockingRequests):
    """A Kernel for synchronous code; made by ``run_kernel_blocking`` and similar functions."""

    wrapped: Kernel

    def __init__(self, portal: BlockingPortal, wrapped: Kernel) -> None:
        super().__init__(portal, wrapped)
        self._resources = ExitStack()

    @property
    def kernel_id(self) -> str:
        """The id of the kernel's first launch, which stays the same across restarts."""
        return self.wrapped.kernel_id

    @property
    def connection_info(self) -> ConnectionInfo:
        """The addresses and keys of the kernel."""
        return self.wrapped.connection_info

    @property
    def state(self) -> KernelState:
        """The state of the kernel; see ``Kernel.state``."""
        self.owner.check("kernel")
        return self.wrapped.state

    @property
    def handle(self) -> KernelHandle | None:
        """The handle with which another program adopts the kernel; see ``Kernel.handle``."""
        return self.wrapped.handle

    @property
    def cwd(self) -> str | None:
        """The working directory that the kernel was started in; None means the caller's."""
        return self.wrapped.cwd

    def restart(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Replace the kernel's process by a new one; see ``Kernel.restart``."""
        self.wait_for(partial(self.wrapped.restart, env=env, cwd=cwd))

    def shutdown(self) -> int | None:
        """End the kernel gracefully and remove the kernel's files; see ``Kernel.shutdown``."""
        self.owner.check("kernel")
        try:
            return self.portal.call(self.wrapped.shutdown)
        finally:
            self._resources.close()

    shutdown_or_terminate = shutdown

    def detach(self) -> None:
        """Close this handle on a kernel that was started detached; the kernel goes on."""
        self.owner.check("kernel")
        self._resources.close()

    def own(self, resources: ExitStack) -> None:
        """Close *resources* with ``shutdown``."""
        self._resources = resources


@contextmanager
def run_kernel_blocking(
    kernel_type: str = "pyimport/kernel", **options: Unpack[RunOptions]
) -> Generator[BlockingKernel]:
    """Run a kernel for the block, from synchronous code; see ``run_kernel``."""
    with _entered(run_kernel(kernel_type, **options)) as (portal, kernel):
        yield BlockingKernel(portal, kernel)


def start_kernel_blocking(
    kernel_type: str = "pyimport/kernel",
    *,
    detached: bool = False,
    host: bool | None = None,
    linger: float | None = None,
    **options: Unpack[RunOptions],
) -> BlockingKernel:
    """Start a kernel that runs until ``shutdown``, or until the program ends.

    A detached kernel outlives the program; see ``start_kernel``.
    """

    async def start() -> Kernel:
        return await start_kernel(
            kernel_type, detached=detached, host=host, linger=linger, **options
        )

    with ExitStack() as resources:
        portal = resources.enter_context(_event_loop)
        kernel = BlockingKernel(portal, portal.call(start))

        def at_exit() -> None:
            if kernel.owner.is_here:  # not at the end of a forked child
                (kernel.detach if detached else kernel.shutdown)()

        atexit.register(at_exit)
        resources.callback(atexit.unregister, at_exit)
        kernel.own(resources.pop_all())
    return kernel


@contextmanager
def connect_kernel_blocking(
    connection: ConnectionSource, *, timeouts: Timeouts | None = None
) -> Generator[BlockingClient]:
    """Connect to a kernel of another program, for the block; see ``connect_kernel``."""
    connected = connect_kernel(connection, timeouts=timeouts or Timeouts())
    with _entered(connected) as (portal, client):
        yield BlockingClient(portal, client)


@contextmanager
def adopt_kernel_blocking(
    connection: ConnectionSource | KernelHandle,
    *,
    finder: KernelFinder | None = None,
    timeouts: Timeouts | None = None,
) -> Generator[BlockingKernel]:
    """Adopt a kernel of another program, and end it with the block; see ``adopt_kernel``."""
    adopted = adopt_kernel(connection, finder=finder, timeouts=timeouts or Timeouts())
    with _entered(adopted) as (portal, kernel):
        yield BlockingKernel(portal, kernel)


@contextmanager
def _entered(manager: AbstractAsyncContextManager[T]) -> Generator[tuple[BlockingPortal, T]]:
    """Enter *manager* in the event loop; exit with the block, but not in a forked child."""
    owner = Owner()
    with ExitStack() as resources:
        portal = resources.enter_context(_event_loop)
        value = resources.enter_context(portal.wrap_async_context_manager(manager))
        try:
            yield portal, value
        finally:
            if not owner.is_here:
                resources.pop_all()  # only the parent closes them
