"""Kernels that are processes are restarted: by hand, when they die, when they fall silent."""

from __future__ import annotations

import fnmatch
import os
import signal
from pathlib import Path

import anyio
import pytest

from kernelproto import (
    Backoff,
    Died,
    Failed,
    Kernel,
    KernelDied,
    KernelRestarted,
    Restarted,
    RestartPolicy,
    connect_kernel,
    run_kernel,
    run_kernel_blocking,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
POLICY = RestartPolicy(stable_after=GUARD_SECONDS, backoff=Backoff(initial=0.001))

WHERE = "import os; (os.getpid(), os.getcwd(), os.environ['NAME'])"


async def where(kernel: Kernel) -> tuple[int, str, str]:
    result = await kernel.execute(WHERE)
    return eval(result.raise_for_error().text or "")


async def test_ipykernel(tmp_path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(cwd=tmp_path, env={"NAME": "value"}, restart=POLICY) as kernel:
            pid, *place = await where(kernel)
            await kernel.execute("x = 1")
            await kernel.restart()
            again, *same_place = await where(kernel)
            assert again != pid
            assert same_place == place == [str(tmp_path), "value"]
            assert (await kernel.execute("x")).error.ename == "NameError"
            other = tmp_path / "other"
            other.mkdir()
            await kernel.restart(env={"NAME": "changed"}, cwd=other)
            again, *new_place = await where(kernel)
            assert new_place == [str(other), "changed"]

            async with kernel.execute("import time; print('begun'); time.sleep(1000)") as execution:
                await anext(execution)
                os.kill(again, signal.SIGKILL)
                with pytest.raises(KernelRestarted) as caught:
                    await execution
            assert caught.value.returncode == -signal.SIGKILL
            assert (await where(kernel))[0] not in (pid, again)
            async with connect_kernel(kernel.connection_info) as client:
                assert (await client.execute("6 * 7")).text == "42"


async def test_killed_again_and_again(runtime_dir: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("spec/scripted", restart=POLICY) as kernel:
            events = kernel.events()
            addresses = {kernel.connection_info.shell_port}
            for attempt in range(1, 6):
                await kernel.manager.signal(signal.SIGKILL)
                assert await anext(events) == Died(-signal.SIGKILL)
                assert await anext(events) == Restarted(True, kernel.connection_info, attempt)
                addresses.add(kernel.connection_info.shell_port)
                assert len(fnmatch.filter(os.listdir(runtime_dir), "kernel-*.json")) == 1
            await kernel.manager.signal(signal.SIGKILL)
            assert [await anext(events), await anext(events)] == [Died(-9), Failed(5)]
            assert kernel.state == "dead"
            with pytest.raises(KernelDied):
                await kernel.execute("pass")
            assert len(addresses) > 1


async def test_stopped_kernel_is_found_out() -> None:
    policy = RestartPolicy(time_to_dead=0.5)
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("spec/scripted", restart=policy) as kernel:
            events = kernel.events()
            await kernel.client.heartbeat()
            await kernel.client.heartbeat()
            await kernel.manager.signal(signal.SIGSTOP)
            died = await anext(events)
            assert died == Died(-signal.SIGKILL, "its heartbeat was silent for 0.5 s")
            assert isinstance(await anext(events), Restarted)
            await kernel.execute("pass")


async def test_busy_application_is_no_silence_of_the_kernel() -> None:
    policy = RestartPolicy(time_to_dead=0.3)
    async with run_kernel("spec/scripted", restart=policy) as kernel:
        manager = kernel.manager
        for _ in range(3):
            await kernel.client.heartbeat()
            signal.sigtimedwait([], 0.5)  # blocks the event loop
        await kernel.execute("pass")
        assert kernel.manager is manager


async def test_kernel_that_does_not_come_back(write_kernelspec, tmp_path: Path) -> None:
    once = tmp_path / "once"
    script = Path(__file__).with_name("share") / "kernels/scripted/kernel.py"
    code = (
        f"import os, runpy, sys; os.mkdir({str(once)!r}); "
        f"sys.argv = [{str(script)!r}, sys.argv[1], '']; runpy.run_path({str(script)!r}, "
        "run_name='__main__')"
    )
    write_kernelspec("once", argv=["python", "-c", code, "{connection_file}"])
    policy = RestartPolicy(limit=2, stable_after=GUARD_SECONDS, backoff=Backoff(initial=0.001))
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("spec/once", restart=policy) as kernel:
            events = kernel.events()
            await kernel.manager.kill()
            assert [await anext(events), await anext(events)] == [Died(-9), Failed(2)]
            with pytest.raises(KernelDied, match="2 consecutive restarts failed") as caught:
                await kernel.wait_for_ready()
            assert "FileExistsError" in str(caught.value.__cause__)


def test_blocking() -> None:
    with run_kernel_blocking("spec/scripted") as kernel:
        first = kernel.connection_info
        kernel.restart()
        assert kernel.connection_info != first
        kernel.execute("pass")
