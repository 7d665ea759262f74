"""The plug-in for pytest, in runs of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUARD_SECONDS = 100

PLAIN = """
def test_blocking(kernel_factory):
    one, two = kernel_factory(), kernel_factory("pyimport/kernel", env={"X": "1"})
    assert one.execute("6 * 7").text == two.execute("6 * 7").text == "42"
"""

ANYIO = """
import pytest

pytestmark = pytest.mark.anyio

async def test_async(kernel_factory):
    kernel = await kernel_factory(env={"X": "1"})
    assert (await kernel.execute("6 * 7")).text == "42"

@pytest.fixture
async def kernel(kernel_factory):
    return await kernel_factory()

async def test_fixture(kernel):
    assert (await kernel.execute("6 * 7")).text == "42"
"""

ASYNCIO = """
import pytest, pytest_asyncio

@pytest.mark.asyncio
async def test_async(kernel_factory):
    kernel = await kernel_factory()
    assert (await kernel.execute("6 * 7")).text == "42"

@pytest.mark.asyncio(loop_scope="module")
async def test_with_the_loop_of_the_module(kernel_factory):
    kernel = await kernel_factory()
    assert (await kernel.execute("6 * 7")).text == "42"

@pytest_asyncio.fixture
async def kernel(kernel_factory):
    return await kernel_factory()

@pytest.mark.asyncio
async def test_fixture(kernel):
    assert (await kernel.execute("6 * 7")).text == "42"
"""

UNKNOWN = """
async def test_async(kernel_factory):
    pass
"""

UNUSED = """
import sys

def test_nothing_is_loaded():
    loaded = {name for name in sys.modules if name.partition(".")[0] == "kernelproto"}
    assert loaded <= {"kernelproto", "kernelproto.pytest_plugin"}
    assert "zmq" not in sys.modules
"""


def run_pytest(folder: Path, tests: str, *options: str) -> str:
    folder.joinpath("test_it.py").write_text(tests)
    folder.joinpath("pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    options = options or ("-o", "asyncio_default_fixture_loop_scope=function")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
    )
    return done.stdout + done.stderr


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(
    ("tests", "passed"), [(PLAIN, 1), (ANYIO, 4), (ASYNCIO, 3)], ids=["plain", "anyio", "asyncio"]
)
def test_kernel_factory(tmp_path: Path, tests: str, passed: int) -> None:
    printed = run_pytest(tmp_path, tests)
    assert f"= {passed} passed in" in printed, printed


def test_async_test_of_an_unknown_plug_in(tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, UNKNOWN, "-p", "no:asyncio")
    assert "mark the test with pytest.mark.anyio" in printed


def test_it_loads_nothing_until_it_is_used(tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, UNUSED)
    assert "1 passed" in printed, printed
