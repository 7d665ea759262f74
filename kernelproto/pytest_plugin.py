"""A plug-in for pytest: the fixture ``kernel_factory``. PYTEST_DONT_REWRITE.

pytest loads this module in each run where kernelproto is installed. So it imports pytest alone, and
kernelproto when a test first asks for the fixture.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

if TYPE_CHECKING:
    from kernelproto.blocking import BlockingKernel
    from kernelproto.supervise.kernel import Kernel

_Scope = Literal["function", "class", "module", "package", "session"]
_SCOPES: tuple[_Scope, ...] = ("function", "class", "module", "package", "session")


@pytest.fixture
def kernel_factory(request: pytest.FixtureRequest) -> object:
    """Start kernels for a test, and shut them down after the test.

    In an async test ``await kernel_factory(kernel_type, **options)`` returns a Kernel, and in any
    other test ``kernel_factory(kernel_type, **options)`` returns a BlockingKernel. The arguments
    and exceptions are those of ``run_kernel``. Async tests are those with the marker ``anyio`` or
    ``asyncio``.
    """
    return request.getfixturevalue(f"_kernel_factory_{_kind_of(request)}")


def _kind_of(request: pytest.FixtureRequest) -> str:
    node = cast("pytest.Function", request.node)
    if not inspect.iscoroutinefunction(node.obj):
        return "blocking"
    if node.get_closest_marker("anyio"):
        return "anyio"
    marker = node.get_closest_marker("asyncio")
    if marker and request.config.pluginmanager.hasplugin("asyncio"):
        default = request.config.getini("asyncio_default_test_loop_scope")
        return f"asyncio_{marker.kwargs.get('loop_scope') or default or 'function'}"
    raise pytest.UsageError(
        f"{node.nodeid}: kernel_factory does not know which plug-in runs this async test: mark the "
        "test with pytest.mark.anyio or pytest.mark.asyncio"
    )


@contextmanager
def _blocking_kernels() -> Generator[Callable[..., BlockingKernel]]:
    from kernelproto.blocking import run_kernel_blocking

    with ExitStack() as kernels:

        def start(kernel_type: str = "pyimport/kernel", **options: Any) -> BlockingKernel:
            return kernels.enter_context(run_kernel_blocking(kernel_type, **options))

        yield start


@asynccontextmanager
async def _kernels() -> AsyncGenerator[Callable[..., Awaitable[Kernel]]]:
    from kernelproto.run import run_kernel

    async with AsyncExitStack() as kernels:

        async def start(kernel_type: str = "pyimport/kernel", **options: Any) -> Kernel:
            return await kernels.enter_async_context(run_kernel(kernel_type, **options))

        yield start


@pytest.fixture(name="_kernel_factory_blocking")
def _for_blocking() -> Generator[object]:
    with _blocking_kernels() as start:
        yield start


@pytest.fixture(name="_kernel_factory_anyio")
async def _for_anyio(anyio_backend: object) -> AsyncGenerator[object]:
    async with _kernels() as start:
        yield start


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures for pytest-asyncio, where that is installed."""
    if config.pluginmanager.hasplugin("asyncio"):
        config.pluginmanager.register(_for_pytest_asyncio(), "kernelproto-asyncio")


def _for_pytest_asyncio() -> ModuleType:
    """Return a plug-in with a fixture for each scope that the event loop of a test can have."""
    import pytest_asyncio

    plugin = ModuleType("kernelproto_asyncio")
    for scope in _SCOPES:
        name = f"_kernel_factory_asyncio_{scope}"
        setattr(plugin, name, pytest_asyncio.fixture(_fixture(), loop_scope=scope, name=name))
    return plugin


def _fixture() -> Callable[[], AsyncGenerator[object]]:
    """Return a new function each time, because pytest_asyncio stores the scope there."""

    async def kernels() -> AsyncGenerator[object]:
        async with _kernels() as start:
            yield start

    return kernels
