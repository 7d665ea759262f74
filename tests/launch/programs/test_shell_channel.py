"""The hooks for the shell channel lose no request, and keep the order."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest

from kernelproto import Kernel, run_kernel
from tests.launch.programs.behaviours import GUARD_SECONDS, run, text_of

VARIABLE = "KERNELPROTO_STOCK_IPYKERNEL"

# Switched off: no hook, all hooks, or one of them.
OFF = ("", "all", "forward", "stream")

REQUESTS = 60


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on one event loop, because the kernel does not depend on it."""
    return "asyncio"


async def ask_often(kernel: Kernel) -> None:
    for _ in range(REQUESTS):
        assert (await kernel.is_complete("seen")).status == "complete"


@pytest.mark.anyio
@pytest.mark.parametrize("off", OFF)
async def test_requests_in_flight(off: str, runtime_dir) -> None:
    """Requests arrive while replies are sent: the kernel answers all, in their order."""
    async with run_kernel("pyimport/kernel", launch_params={"env": {VARIABLE: off}}) as kernel:
        with anyio.fail_after(GUARD_SECONDS):
            await kernel.execute("seen = []")
            async with anyio.create_task_group() as tasks, AsyncExitStack() as sent:
                tasks.start_soon(ask_often, kernel)
                executions = [kernel.execute(f"seen.append({n})") for n in range(REQUESTS)]
                for execution in executions:
                    await sent.enter_async_context(execution)
                for execution in executions:
                    assert (await execution).status == "ok"
            assert (await kernel.execute(f"seen == list(range({REQUESTS}))")).text == "True"


@pytest.mark.anyio
@pytest.mark.parametrize("off", OFF)
async def test_context_variables_stay_from_cell_to_cell(off: str, runtime_dir) -> None:
    async with run_kernel("pyimport/kernel", launch_params={"env": {VARIABLE: off}}) as kernel:
        code = "import contextvars; name = contextvars.ContextVar('name'); token = name.set('Ada')"
        await run(kernel, code)
        assert text_of(await run(kernel, "print(name.get())")) == "Ada\n"
        await run(kernel, "name.reset(token)")
        assert text_of(await run(kernel, "print(name.get('none'))")) == "none\n"
