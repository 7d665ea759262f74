"""Programs that fork while they have kernels: each test is such a program."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kernelproto import WrongProcess
from kernelproto.concurrency.process_owner import Owner

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")

GUARD_SECONDS = 60

# What the programs begin with.
PRELUDE = """
import multiprocessing, os, sys, threading, warnings
import anyio
from kernelproto import *

warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, at a fork
fork = multiprocessing.get_context("fork")


def in_child(function):
    # What a child returns, or raises, and how it exits.
    queue = fork.SimpleQueue()

    def call():
        try:
            queue.put(function())
        except Exception as error:
            queue.put(f"{type(error).__name__} {getattr(error, 'pid', '')}")

    child = fork.Process(target=call)
    child.start()
    child.join(30)
    child.kill()
    child.join()
    return queue.get() if child.exitcode == 0 else f"exit {child.exitcode}"


def own_kernel():
    with run_kernel_blocking() as kernel:
        return kernel.execute("6 * 7").text


def exit_status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def output_of(program: str, *arguments: str) -> list[str]:
    """Run a program that prints; return the lines."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_owner_is_this_process() -> None:
    owner = Owner()
    owner.check("kernel")
    assert owner.is_here


def test_forked_child_gets_wrong_process() -> None:
    owner = Owner()
    owner.pid += 1
    with pytest.raises(
        WrongProcess, match=rf"this kernel belongs to process {owner.pid}"
    ) as caught:
        owner.check("kernel")
    assert caught.value.pid == owner.pid
    assert str(os.getpid()) in str(caught.value)


@pytest.mark.usefixtures("no_leaks")
class TestForkedChild:
    @pytest.mark.parametrize("kind", ["pyimport/kernel", "fork/kernel"])
    def test_child_runs_a_kernel_of_its_own(self, kind: str) -> None:
        assert output_of(
            """
            with run_kernel_blocking(sys.argv[1]) as kernel:
                def child():
                    with run_kernel_blocking(sys.argv[1]) as own:
                        return own.execute("6 * 7").text, in_child(own_kernel)

                print(in_child(child), kernel.execute("1 + 1").text)
            print(in_child(own_kernel))
            """,
            kind,
        ) == ["('42', '42') 2", "42"]

    def test_worker_of_a_process_pool_runs_kernels(self) -> None:
        assert output_of(
            """
            from concurrent.futures import ProcessPoolExecutor

            with (
                run_kernel_blocking() as kernel,
                ProcessPoolExecutor(2, mp_context=fork) as workers,
            ):
                texts = [workers.submit(own_kernel) for _ in range(4)]
                print(*(text.result(30) for text in texts), kernel.execute("1 + 1").text)
            """
        ) == ["42 42 42 42 2"]

    def test_child_cannot_use_an_inherited_kernel(self) -> None:
        uses = [
            "kernel.execute('1')",
            "kernel.execute_interactive('1')",
            "kernel.complete('1')",
            "kernel.interrupt()",
            "kernel.restart()",
            "kernel.shutdown()",
            "kernel.detach()",
            "kernel.state",
            "client.execute('1')",
            "client.busy",
        ]
        assert output_of(
            """
            kernel = start_kernel_blocking()
            with connect_kernel_blocking(kernel.connection_info) as client:
                for use in sys.argv[1:]:
                    raised = in_child(lambda: eval(use))
                    print(use, raised == f"WrongProcess {os.getpid()}")
                assert client.execute("1").text == kernel.execute("1").text == "1"
            kernel.shutdown()
            """,
            *uses,
        ) == [f"{use} True" for use in uses]

    def test_child_connects_to_the_kernel_of_its_parent(self) -> None:
        assert output_of(
            """
            with run_kernel_blocking() as kernel:
                kernel.execute("x = 42")

                def child():
                    with connect_kernel_blocking(kernel.connection_info) as client:
                        return client.execute("x").text

                print(in_child(child), kernel.execute("x").text)
            """
        ) == ["42 42"]

    @pytest.mark.parametrize("kind", ["pyimport/kernel", "fork/kernel"])
    @pytest.mark.parametrize(
        "end", ["sys.exit(3)", "del kernel, own; import gc; gc.collect(); sys.exit(3)", "1 / 0"]
    )
    def test_end_of_a_child_leaves_the_kernels_of_its_parent_alone(
        self, kind: str, end: str, runtime_dir: Path
    ) -> None:
        """By its exit handlers, and by leaving the blocks that it is in."""
        assert output_of(
            """
            kind, end, runtime = sys.argv[1:]
            own = start_kernel_blocking(kind)
            with run_kernel_blocking(kind, transport="ipc") as kernel:
                files = sorted(os.listdir(runtime))
                if os.fork() == 0:
                    sys.stderr = open(os.devnull, "w")
                    exec(end)
                print(exit_status_of(-1), kernel.execute("1").text, own.execute("2").text)
                assert sorted(os.listdir(runtime)) == files
                kernel.restart()
                print(kernel.execute("3").text)
            print(own.shutdown())
            """,
            kind,
            end,
            str(runtime_dir),
        ) == [f"{1 if end == '1 / 0' else 3} 1 2", "3", "0"]

    def test_child_of_a_program_whose_threads_start_and_end_kernels(self) -> None:
        assert output_of(
            """
            own_kernel()  # a child of a thread that imports a module would lack that module
            over = threading.Event()

            def use_kernels():
                while not over.is_set():
                    with run_kernel_blocking() as kernel:
                        assert kernel.execute("1").text == "1"

            threads = [threading.Thread(target=use_kernels) for _ in range(2)]
            for thread in threads:
                thread.start()
            print({in_child(own_kernel) for _ in range(5)})
            over.set()
            for thread in threads:
                thread.join()
            """
        ) == ["{'42'}"]

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_child_of_an_event_loop_cannot_use_an_inherited_kernel(self, backend: str) -> None:
        assert output_of(
            """
            uses = {
                "execute": lambda kernel: kernel.execute("1"),
                "client": lambda kernel: kernel.client.kernel_info(),
                "heartbeat": lambda kernel: kernel.client.heartbeat(),
                "restart": lambda kernel: kernel.restart(),
                "shutdown": lambda kernel: kernel.shutdown(),
                "wait": lambda kernel: kernel.manager.wait(),
                "is_alive": lambda kernel: kernel.manager.is_alive(),
                "interrupt": lambda kernel: kernel.manager.interrupt(),
                "kill": lambda kernel: kernel.manager.kill(),
            }

            async def main():
                async with run_kernel() as kernel:
                    if os.fork() == 0:
                        for name, use in uses.items():
                            try:
                                await use(kernel)
                            except WrongProcess as error:
                                print(name, error.pid == os.getppid(), flush=True)
                        await kernel.manager.cleanup()
                        os._exit(0)
                    print(exit_status_of(-1), (await kernel.execute("1")).text)

            anyio.run(main, backend=sys.argv[1])
            """,
            backend,
        ) == [
            "execute True",
            "client True",
            "heartbeat True",
            "restart True",
            "shutdown True",
            "wait True",
            "is_alive True",
            "interrupt True",
            "kill True",
            "0 1",
        ]

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_child_that_leaves_the_event_loop_ends_and_the_kernel_stays(self, backend: str) -> None:
        assert output_of(
            """
            async def main():
                async with run_kernel() as kernel:
                    pid = os.fork()
                    if pid == 0:
                        sys.stderr = open(os.devnull, "w")
                        sys.exit(3)
                    print(exit_status_of(pid))
                    assert os.path.exists(kernel.manager.connection_file)
                    with connect_kernel_blocking(kernel.connection_info) as client:
                        print(client.execute("1").text)
                    os._exit(0)  # the system has taken the descriptors of both from one epoll

            anyio.run(main, backend=sys.argv[1])
            """,
            backend,
        ) == ["3", "1"]
