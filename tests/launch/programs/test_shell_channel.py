"""The hooks for the shell channel lose no request, and keep the order."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import anyio
import pytest
from dateutil.parser import isoparse
from dateutil.tz import tzutc

from kernelproto import Kernel, run_kernel
from kernelproto.launch.programs.fast_ipykernel.dates import parsing
from tests.launch.programs.behaviours import GUARD_SECONDS, run, text_of

VARIABLE = "KERNELPROTO_STOCK_IPYKERNEL"

# All hooks, none of them, and all but one.
OFF = ("", "all", "forward", "task", "direct")

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


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30T15:02:59.123456Z",
        "2026-11-30T15:02:59.123Z",
        "2026-11-30T15:02:59.1Z",
        "2026-11-30T15:02:59Z",
        "2026-11-30T15:02:59.123456+02:00",
        "2026-11-30T15:02:59.123456-0530",
        "2026-11-30T15:02:59.123456",
        "2024-02-29T24:00:00Z",
    ],
)
def test_dates(text: str) -> None:
    expected, found = isoparse(text), parsing(isoparse, tzutc())(text)
    assert found == expected
    assert type(found.tzinfo) is type(expected.tzinfo)
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("text", ["2023-02-29T00:00:00Z", "2026-11-30T25:00:00Z"])
def test_wrong_dates(text: str) -> None:
    with pytest.raises(ValueError, match=r"day|hour|time"):
        parsing(isoparse, tzutc())(text)


def test_date_without_a_zone_is_left_to_the_stock_parser() -> None:
    seen: list[str] = []

    def stock(text: str) -> datetime:
        seen.append(text)
        return datetime(2026, 1, 1) + timedelta(days=1)

    assert parsing(stock, tzutc())("2026-11-30T15:02:59") == datetime(2026, 1, 2)
    assert seen == ["2026-11-30T15:02:59"]
