"""Interrupts of kernels that a wrapper runs as a child."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from kernelproto import run_kernel
from kernelproto.launch.process import wrapped

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks into /proc"),
]

GUARD_SECONDS = 60
KERNEL = Path(__file__).parents[2] / "integration" / "share" / "kernels" / "scripted" / "kernel.py"
RUN = f"'{sys.executable}' '{KERNEL}' \"$0\" ''"
# A SIGINT ends it at once.
WAIT = (
    "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "sys.exit(subprocess.call(sys.argv[1:]))"
)

WRAPPERS = {
    "sh": ["sh", "-c", f"{RUN}; exit $?"],
    "python": [sys.executable, "-c", WAIT, sys.executable, str(KERNEL)],
    "setsid": ["setsid", "-w", "sh", "-c", f"{RUN}; exit $?"],
    "sh beside setsid": ["sh", "-c", f"setsid {RUN} & wait; sleep 1000"],
}


@pytest.fixture(params=WRAPPERS)
def kernelspec(request, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = runtime_dir.parent / "path" / "kernels" / "wrapped"
    folder.mkdir(parents=True)
    spec = {
        "argv": [*WRAPPERS[request.param], "{connection_file}", ""],
        "display_name": "wrapped",
        "language": "python",
    }
    folder.joinpath("kernel.json").write_text(json.dumps(spec))
    return "spec/wrapped"


async def test_the_kernel_is_interrupted_and_the_wrapper_goes_on(kernelspec: str) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(kernelspec) as kernel:
            for _ in range(3):
                execution = kernel.execute("say('begun', parent); pause()")
                await anext(execution)
                await kernel.interrupt()
                assert (await execution).error.ename == "KeyboardInterrupt"
            assert (await kernel.execute("say('alive', parent)")).stdout == "alive"


async def test_children_of_the_kernel_in_its_group_are_interrupted(kernelspec: str) -> None:
    code = (
        "import subprocess, sys\n"
        "sys.child = subprocess.Popen(['sleep', '1000'])\n"
        "say('begun', parent); pause()"
    )
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(kernelspec) as kernel:
            execution = kernel.execute(code)
            await anext(execution)
            await kernel.interrupt()
            await execution
            waited = await kernel.execute("import sys; say(str(sys.child.wait()), parent)")
            assert waited.stdout == "-2"


def test_a_process_without_children_is_no_wrapper() -> None:
    assert not wrapped.interrupt_wrapped(os.getppid(), "/no/such/kernel.json")
