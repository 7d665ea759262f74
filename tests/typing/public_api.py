"""What type checkers make of the public names: checked by mypy and pyright, never run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, assert_type

import kernelproto
from kernelproto import (
    ClearOutput,
    ConnectionInfo,
    Died,
    DisplayData,
    ErrorOutput,
    ExecuteResult,
    Execution,
    ExecutionResult,
    ExecutionTimeout,
    Failed,
    InputRequest,
    Kernel,
    KernelClient,
    KernelFinder,
    KernelHandle,
    KernelManager,
    KernelPool,
    KernelProvider,
    KernelRestarter,
    KernelUnresponsive,
    Reachability,
    Reachable,
    RefusedOutput,
    ReplyLost,
    Restarted,
    RestartPolicy,
    Stream,
    Timeouts,
    Unreachable,
    UpdateDisplayData,
    waiting_in_queue,
)
from kernelproto.client import ExecutionState
from kernelproto.launch import (
    ForkServerProvider,
    IPykernelProvider,
    KernelSpecProvider,
    WarmProvider,
)
from kernelproto.pool import PoolConnection, PooledKernel
from kernelproto.wire import Message
from kernelproto.wire.connection import ChannelName


async def front_door(info: ConnectionInfo) -> None:
    run: AbstractAsyncContextManager[Kernel] = kernelproto.run_kernel(
        kernel_type="spec/python3", cwd="/", timeouts=Timeouts(startup=10)
    )
    async with run as kernel:
        assert_type(kernel, Kernel)

    assert_type(await kernelproto.start_kernel(kernel_type="fork/kernel"), Kernel)

    async with kernelproto.connect_kernel(info) as client:
        assert_type(client, KernelClient)

    async with kernelproto.adopt_kernel(info) as adopted:
        assert_type(adopted, Kernel)
        assert_type(adopted.handle, KernelHandle | None)
    handle = KernelHandle.from_json("{}")
    assert_type(kernelproto.adopt_kernel(handle), AbstractAsyncContextManager[Kernel])


async def observing(kernel: Kernel) -> None:
    assert_type(await kernel.heartbeat(), float)
    assert_type(kernel.cwd, str | None)
    async with kernel.messages(["shell"]) as messages:
        async for message, channel in messages:
            assert_type(message, Message)
            assert_type(channel, ChannelName)
    async with kernel.debug_events() as events:
        assert_type(await anext(events), dict[str, Any])


async def restarting(kernel: Kernel) -> None:
    await kernel.restart(env={"A": "1"}, cwd="data")
    async for event in kernel.events():
        match event:
            case Died(returncode=returncode, reason=reason):
                assert_type(returncode, int | None)
                assert_type(reason, str | None)
            case Restarted(auto=auto, connection_info=info):
                assert_type(auto, bool)
                assert_type(info, ConnectionInfo)
            case Failed(attempts=attempts):
                assert_type(attempts, int)
            case Unreachable(problem=problem):
                assert_type(problem, str)
            case Reachable(seconds=seconds):
                assert_type(seconds, float)
    async with kernel.fail_if_unreachable(30):
        assert_type(kernel.unreachable, str | None)

    async with KernelRestarter(kernel, RestartPolicy(limit=3)) as restarter:
        restarter.add_callback(report, Died)
        restarter.remove_callback(report, Died)


async def reaching(reachability: Reachability) -> None:
    assert_type(reachability.problem, str | None)
    assert_type(await reachability.until_lost(), str)
    with waiting_in_queue():
        reachability.regain()


def report(event: Died) -> None:
    assert_type(event.returncode, int | None)


async def executing(kernel: Kernel, client: KernelClient) -> None:
    assert_type(kernel.execute("1"), Execution)
    assert_type(client.execute("1"), Execution)

    result = await kernel.execute("1")
    assert_type(result, ExecutionResult)
    assert_type(result.text, str | None)
    assert_type(result.error, ErrorOutput | None)
    assert_type(result.raise_for_error(), ExecutionResult)

    async for output in kernel.execute("1"):
        assert_type(
            output,
            Stream | DisplayData | UpdateDisplayData | ExecuteResult | ErrorOutput | ClearOutput,
        )

        if isinstance(output, RefusedOutput):
            assert_type(output.msg_type, str)
            assert_type(output.reason, str)

        assert_type(output.to_dict(), dict[str, Any])

    async with kernel.execute("input()", on_input=answer) as execution:
        assert_type(execution, Execution)
        assert_type(execution.state, ExecutionState)
        assert_type(await execution.interrupt(), None)
        assert_type(await execution, ExecutionResult)

    kernel.execute("1", timeout=1.5, on_timeout="restart")


def explaining(late: ExecutionTimeout, stuck: KernelUnresponsive, lost: ReplyLost) -> None:
    assert_type(late.seconds, float)
    assert_type(late.ename, str)
    assert_type(late.restarted, bool)
    assert_type(stuck.seconds, float)
    result: ExecutionResult = lost.result
    assert_type(result.stdout, str)


async def pooling(finder: KernelFinder) -> None:
    async with KernelPool(
        finder=finder, kernel_type="fork/kernel", max_kernels=50, idle_timeout=None
    ) as pool:
        assert_type(pool, KernelPool)
        second = await pool.get(
            "ada", name="second", kernel_type="spec/ir", env={"A": "1"}, wait=True
        )
        assert_type(second, Kernel)
        async with pool.connection("ada", overflow="drop_oldest") as connection:
            assert_type(connection, PoolConnection)
            assert_type(connection.kernel, Kernel)
            async for message, channel in connection.messages:
                assert_type(message, Message)
                assert_type(channel, ChannelName)
        assert_type(pool.kernels("ada"), list[PooledKernel])
        assert_type(await pool.release("ada"), bool)


async def answer(request: InputRequest) -> str:
    assert_type(request.prompt, str)
    assert_type(request.password, bool)
    return "Ada"


async def finding(finder: KernelFinder) -> None:
    async for name, attributes in finder.find_kernels():
        assert_type(name, str)
        assert_type(attributes.get("display_name"), str | None)

    info, manager = await finder.launch(kernel_type="spec/python3")
    assert_type(info, ConnectionInfo)
    assert_type(manager, KernelManager)
    assert_type(await manager.wait(), int | None)


PROVIDERS: tuple[type[KernelProvider], ...] = (
    ForkServerProvider,
    IPykernelProvider,
    KernelSpecProvider,
    WarmProvider,
)
