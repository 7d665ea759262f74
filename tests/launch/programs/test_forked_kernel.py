from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest

from kernelproto import run_kernel
from kernelproto.launch.leftovers.records import read_records
from tests.launch.process.forks import evaluate, finder

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]


async def test_kernel_is_like_a_new_process(tmp_path: Path) -> None:
    async with run_kernel(
        "fork/kernel",
        finder=finder(),
        cwd=tmp_path,
        env={"NAME": "value"},
        launch_params={"extra_arguments": ["--HistoryManager.enabled=False"]},
    ) as kernel:
        await kernel.execute("import os, sys, threading")
        assert await evaluate(kernel, "os.getcwd()") == str(tmp_path)
        assert await evaluate(kernel, "os.environ['NAME']") == "value"
        assert await evaluate(kernel, "os.getpgid(0) == os.getsid(0) == os.getpid()")
        assert await evaluate(kernel, "os.getpid()") == kernel.manager.pid
        assert read_records()[0].is_of(kernel.manager.pid)
        assert await evaluate(kernel, "'--HistoryManager.enabled=False' in sys.argv")
        assert not [path for path in await evaluate(kernel, "sys.path") if "kernelproto" in path]
        assert await evaluate(kernel, "os.read(0, 1)") == b""
        assert "kernelproto" not in (await kernel.execute("list(sys.modules)")).text
        interrupted = kernel.execute("print('begun'); threading.Event().wait()")
        await anext(interrupted)
        await kernel.interrupt()
        assert (await interrupted).error.ename == "KeyboardInterrupt"


async def test_environment_is_that_of_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has the variables of the time when it was started."""
    for name in ("GONE", "CHANGED", "KEPT"):
        monkeypatch.setenv(name, "before")
    async with run_kernel("fork/kernel", finder=finder()):
        pass
    monkeypatch.delenv("GONE")
    later = {"CHANGED": "after", "EMPTY": "", "NEW": "ü\udcff"}
    for name, value in later.items():
        monkeypatch.setenv(name, value)
    ours = dict(os.environ)
    async with run_kernel("fork/kernel", finder=finder()) as kernel:
        await kernel.execute("import os, subprocess")
        has = dict(await evaluate(kernel, "dict(os.environ)"))
        lines = await evaluate(kernel, "subprocess.check_output(['env', '-0']).split(b'\\0')[:-1]")
    assert not {name for name in ours.keys() - has.keys() if not name.startswith("KERNELPROTO")}
    assert "GONE" not in has
    assert [has[name] for name in ("KEPT", *later)] == ["before", *later.values()]
    assert dict(os.fsdecode(line).split("=", 1) for line in lines) == has


async def test_kernel_that_ends_closes_nothing_of_its_own(tmp_path: Path) -> None:
    """A descriptor number of the server belongs to another file in a kernel."""
    report = tmp_path / "report"
    code = f"""
        import atexit, os

        numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(200)]

        @atexit.register
        def look():
            is_open = [os.path.exists(f"/proc/self/fd/{{number}}") for number in numbers]
            with open({str(report)!r}, "w") as file:
                print(all(is_open), file=file)
        """
    with ExitStack() as high_numbers:
        for _ in range(100):
            high_numbers.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            await kernel.execute(dedent(code))
        assert await kernel.manager.wait() == 0
    assert report.read_text() == "True\n"


async def test_random_numbers_are_its_own() -> None:
    code = "import random, uuid; (random.random(), str(uuid.uuid1()), str(uuid.uuid4()))"
    values = []
    for _ in range(2):
        async with run_kernel("fork/kernel", finder=finder("uuid")) as kernel:
            values.append(await evaluate(kernel, code))
    assert not set(values[0]) & set(values[1])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("preload", "env", "shown"),
    [
        ([], {}, ["text/plain", "image/png"]),
        (["matplotlib.pyplot"], {}, ["text/plain", "image/png"]),
        (["matplotlib.pyplot"], {"MPLBACKEND": "agg"}, None),
    ],
)
async def test_figures_are_shown_as_by_a_new_kernel(preload, env, shown) -> None:
    pytest.importorskip("matplotlib")
    async with run_kernel("fork/kernel", finder=finder(*preload), env=env) as kernel:
        result = await kernel.execute("import matplotlib.pyplot as plt; _ = plt.plot([1, 2])")
        (output,) = result.raise_for_error().outputs or [None]
        assert (output and sorted(output.data, reverse=True)) == shown
