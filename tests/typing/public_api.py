"""What type checkers make of the public names: checked by mypy and pyright, never run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import assert_type

import kernelproto
from kernelproto import (
    ClearOutput,
    ConnectionInfo,
    DisplayData,
    ErrorOutput,
    ExecuteResult,
    Execution,
    ExecutionResult,
    InputRequest,
    Kernel,
    KernelClient,
    KernelFinder,
    KernelManager,
    KernelProvider,
    Stream,
    Timeouts,
    UpdateDisplayData,
)
from kernelproto.launch.providers import IPykernelProvider, KernelSpecProvider


async def front_door(info: ConnectionInfo) -> None:
    run: AbstractAsyncContextManager[Kernel] = kernelproto.run_kernel(
        "spec/python3", cwd="/", timeouts=Timeouts(startup=10)
    )
    async with run as kernel:
        assert_type(kernel, Kernel)

    assert_type(await kernelproto.start_kernel(), Kernel)

    async with kernelproto.connect_kernel(info) as client:
        assert_type(client, KernelClient)


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

    async with kernel.execute("input()", on_input=answer) as execution:
        assert_type(execution, Execution)
        assert_type(await execution, ExecutionResult)


async def answer(request: InputRequest) -> str:
    assert_type(request.prompt, str)
    assert_type(request.password, bool)
    return "Ada"


async def finding(finder: KernelFinder) -> None:
    async for name, attributes in finder.find_kernels():
        assert_type(name, str)
        assert_type(attributes.get("display_name"), str | None)

    info, manager = await finder.launch("spec/python3")
    assert_type(info, ConnectionInfo)
    assert_type(manager, KernelManager)
    assert_type(await manager.wait(), int | None)


PROVIDERS: tuple[type[KernelProvider], ...] = (IPykernelProvider, KernelSpecProvider)
