"""Notebooks, and a kernel that is no process to execute them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from nbformat import v4

from kernelproto.client import KernelClient
from kernelproto.testing import CodeError, Exchange, FakeKernel

GUARD_SECONDS = 60

NewNotebook = Callable[..., Any]
Connected = Callable[[], AbstractAsyncContextManager[tuple[FakeKernel, KernelClient]]]


@pytest.fixture
def notebook() -> NewNotebook:
    """Give a function that makes a notebook of cells, each its code, or its code and its tags."""

    def new(*cells: str | tuple[str, ...]) -> Any:
        pairs = [(cell,) if isinstance(cell, str) else cell for cell in cells]
        return v4.new_notebook(
            cells=[v4.new_code_cell(code, metadata={"tags": tags}) for code, *tags in pairs]
        )

    return new


@pytest.fixture
def connected() -> Connected:
    """Give a function that opens a kernel and a client of it."""

    @asynccontextmanager
    async def connected() -> AsyncGenerator[tuple[FakeKernel, KernelClient]]:
        with anyio.fail_after(GUARD_SECONDS):
            async with FakeKernel() as fake, prepared(fake).connect() as client:
                await client.wait_for_ready()
                yield fake, client

    return connected


def prepared(fake: FakeKernel) -> FakeKernel:
    """Teach a kernel the words that the notebooks of these tests are written in."""

    async def die(exchange: Exchange) -> None:
        exchange.stream("last words")
        fake.die(-9)

    fake.on_execute(lambda code: code.startswith("say "), say)
    fake.on_execute(lambda code: code.startswith("raise "), fail)
    fake.on_execute("sleep", sleep)
    fake.on_execute("ask", ask)
    fake.on_execute("die", die)
    return fake


async def say(exchange: Exchange) -> None:
    exchange.stream(exchange.code.removeprefix("say "))


async def fail(exchange: Exchange) -> None:
    raise CodeError(exchange.code.removeprefix("raise "), "on purpose")


async def sleep(exchange: Exchange) -> None:
    exchange.stream("sleeping")
    await anyio.sleep_forever()


async def ask(exchange: Exchange) -> None:
    await exchange.input("who? ")
