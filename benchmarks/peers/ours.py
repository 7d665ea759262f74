"""kernelproto, on each event loop and with its blocking API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio

from benchmarks.exceptions import Skipped
from benchmarks.peers.peer import (
    Client,
    Launched,
    Peer,
    Program,
    Streamed,
    T,
    run_by_hand,
    run_in,
    since,
)
from kernelproto import (
    DisplayData,
    Kernel,
    KernelClient,
    KernelDied,
    KernelFinder,
    Stream,
    connect_kernel,
    run_kernel,
)
from kernelproto.blocking import BlockingClient, connect_kernel_blocking
from kernelproto.launch import IPykernelProvider, WarmProvider
from kernelproto.launch.process.confinement import sandbox_fault
from kernelproto.wire.content import Output

# More seconds than an ipykernel needs to be ready.
_SETTLING_SECONDS = 2.0


def _text(output: Output) -> str | None:
    match output:
        case Stream(text=text) | DisplayData(data={"text/plain": text}):
            return str(text)
    return None


class _Client:
    def __init__(self, client: KernelClient) -> None:
        self.client = client

    async def execute(self, code: str) -> int:
        return len((await self.client.execute(code)).outputs)

    async def stream(self, code: str) -> Streamed:
        began, count = None, 0
        async for output in self.client.execute(code):
            count += 1
            began = began or _text(output)
        return Streamed(count, since(began))

    async def buffers(self, code: str) -> Streamed:
        began, size = None, 0
        async with self.client.messages() as messages, self.client.execute(code) as execution:
            async for message, _ in messages:
                if message.msg_type == "stream":
                    began = _text(message.content)
                elif message.msg_type == "display_data":
                    size += sum(map(len, message.buffers))
                    break
            await execution
        return Streamed(size, since(began))

    async def pipeline(self, code: str, count: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.execute, code)


class Kernelproto(Peer):
    """kernelproto on an event loop: asyncio, uvloop or trio."""

    def __init__(self, loop: str) -> None:
        self.name = f"kernelproto {loop}"
        self._loop = loop

    def run(self, program: Program[T]) -> T:
        return run_in(self._loop, program)

    def open(self, file: Path) -> AbstractAsyncContextManager[KernelClient]:
        """Open a client and nothing else."""
        return connect_kernel(str(file))

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[Client]:
        async with self.open(file) as client:
            yield _Client(client)


class _BlockingClient:
    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    async def execute(self, code: str) -> int:
        return len(self._client.execute(code).outputs)

    async def stream(self, code: str) -> Streamed:
        began, count = None, 0

        def count_one(output: Output) -> None:
            nonlocal began, count
            count += 1
            began = began or _text(output)

        self._client.execute_interactive(code, on_output=count_one)
        return Streamed(count, since(began))

    async def buffers(self, code: str) -> Streamed:
        raise Skipped("its outputs carry no buffers")

    async def pipeline(self, code: str, count: int) -> None:
        raise Skipped("it runs one at a time")


class KernelprotoBlocking(Peer):
    """kernelproto's blocking API."""

    name = "kernelproto blocking"

    def run(self, program: Program[T]) -> T:
        return run_by_hand(program)

    @asynccontextmanager
    async def connect(self, file: Path) -> AsyncGenerator[Client]:
        with connect_kernel_blocking(str(file)) as client:
            yield _BlockingClient(client)


class _Launched:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.client: Client = _Client(kernel.client)
        self.pid: int = kernel.manager.pid  # type: ignore[attr-defined]

    async def shutdown(self) -> None:
        await self._kernel.shutdown()

    async def death(self, code: str) -> None:
        try:
            await self._kernel.execute(code)
        except KernelDied:
            return
        raise RuntimeError("the kernel has not died")


class KernelprotoLauncher:
    """Starts kernels with ``run_kernel``.

    Args:
        loop: the event loop.
        kernel: the kernel type.
        prepared: whether a kernel of this type has run before the clock starts, so that everything
            kept for the next one exists.
        sandboxed: whether each kernel is in a sandbox.
    """

    def __init__(
        self, loop: str, kernel: str, *, prepared: bool = False, sandboxed: bool = False
    ) -> None:
        self.name = f"kernelproto {kernel.partition('/')[0]} {loop}"
        self._launch_params: dict[str, object] = {}
        if sandboxed:
            self.name += " sandboxed"
            self._launch_params["sandbox"] = {}
        self._loop = loop
        self._kernel = kernel
        self._prepared = prepared
        self._finder: Callable[[], KernelFinder] = KernelFinder.from_entrypoints

    def run(self, program: Program[T]) -> T:
        async def prepared() -> T:
            async with self._finders() as self._finder:
                if self._prepared:
                    async with self._open() as kernel:
                        await kernel.execute("1")
                return await program()

        return run_in(self._loop, prepared)

    @asynccontextmanager
    async def launch(self) -> AsyncGenerator[Launched]:
        async with self._open() as kernel:
            yield _Launched(kernel)

    def _open(self) -> AbstractAsyncContextManager[Kernel]:
        return run_kernel(
            self._kernel, finder=self._finder(), launch_params=self._launch_params or None
        )

    @asynccontextmanager
    async def _finders(self) -> AsyncGenerator[Callable[[], KernelFinder]]:
        if self._launch_params and (fault := sandbox_fault()) is not None:
            raise Skipped(f"no sandbox can be made here: {fault}")
        finder = KernelFinder.from_entrypoints()
        if self._kernel not in [name async for name, _ in finder.find_kernels()]:
            raise Skipped(f"there is no kernel type {self._kernel!r}")
        # A program that starts its first kernel, or one that has started kernels before.
        yield (lambda: finder) if self._prepared else KernelFinder.from_entrypoints


class WarmLauncher(KernelprotoLauncher):
    """Hands out ipykernels that are launched before the clock starts."""

    def __init__(self, loop: str) -> None:
        super().__init__(loop, "warm/kernel")

    @asynccontextmanager
    async def _finders(self) -> AsyncGenerator[Callable[[], KernelFinder]]:
        async with WarmProvider(IPykernelProvider(), "kernel", warm=1) as provider:
            await provider.wait_until_warm()
            await anyio.sleep(_SETTLING_SECONDS)  # launched, and ready by then
            yield lambda: KernelFinder([provider])
