"""A forked kernel has the state and the rights of its program, as a kernel has that it starts.

Each program here is a process of its own, because most of these changes cannot be undone.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from kernelproto.launch.process.program_state import program_rights, program_state

GUARD_SECONDS = 120

PROGRAM = """
import ctypes, errno, os, resource, signal, sys, tempfile, threading
import anyio
from kernelproto import LaunchError, Timeouts, run_kernel
from kernelproto.launch.process.forkserver import ForkServer

PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, CAP_SYS_NICE = 38, 24, 23

async def evaluate(kernel, code):
    return (await kernel.execute(code)).raise_for_error().text.replace("\\n", "")

async def of_new_kernel(name, code, **options):
    async with run_kernel(name, **options) as kernel:
        return await evaluate(kernel, code)

async def main():
{body}

anyio.run(main, backend={backend!r})
"""


def run(body: str, backend: str = "asyncio") -> list[object]:
    """Run a program; return the values in its output."""
    indented = "\n".join(f"    {line}" for line in dedent(body).splitlines())
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=indented, backend=backend)],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    return [ast.literal_eval(line) for line in program.stdout.splitlines()]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_state_is_that_of_the_program_when_it_forks(tmp_path: Path, backend: str) -> None:
    body = f"""
        state = '''
            import os, resource, signal
            umask = os.umask(0o22)
            limits = [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
            score = open("/proc/self/oom_score_adj").read()
            hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            (os.getcwd(), umask, limits, os.nice(0), os.sched_getaffinity(0), score, hangup)
        '''
        await of_new_kernel("fork/kernel", "1")
        server = ForkServer.running(())
        os.makedirs({str(tmp_path / "now" / "below")!r})
        os.chdir({str(tmp_path / "now")!r})
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 600))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(3)
        os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
        open("/proc/self/oom_score_adj", "w").write("7")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for cwd in (None, "below"):
            for name in ("pyimport/kernel", "fork/kernel"):
                print(await of_new_kernel(name, state, cwd=cwd))
        print(ForkServer.running(()) is server)
        """
    started, forked, started_below, forked_below, is_one_server = run(body, backend)
    assert forked == started
    assert forked_below == started_below
    assert forked == (str(tmp_path / "now"), 0o077, *forked[2:])
    assert forked_below == (str(tmp_path / "now" / "below"), *forked[1:])
    assert is_one_server


def test_program_that_changes_settings_of_the_interpreter_gets_another_server() -> None:
    body = """
        imports = "('/no/such' in __import__('sys').path, __import__('os').environ['PYTHONPATH'])"
        os.environ["PYTHONPATH"] = "/no/other"
        print(await of_new_kernel("fork/kernel", imports))
        os.environ["PYTHONPATH"] = "/no/such"
        print(await of_new_kernel("fork/kernel", imports))
        """
    assert run(body) == [(False, "/no/other"), (True, "/no/such")]


def test_working_directory_that_was_removed() -> None:
    """An ipykernel refuses to start there, and says so."""
    body = """
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        for name in ("pyimport/kernel", "fork/kernel"):
            try:
                await of_new_kernel(name, "1")
            except LaunchError as error:
                print(repr(str(error).splitlines()[-1]))
        """
    started, forked = run(body)
    assert forked == started
    assert str(forked).endswith("Current working directory doesn't exist.")


def test_relative_working_directory_that_is_not_there() -> None:
    body = """
        try:
            await of_new_kernel("fork/kernel", "1", cwd="no/such")
        except LaunchError as error:
            print(repr(str(error)))
        """
    (message,) = run(body)
    assert message == (
        "the working directory 'no/such' cannot be entered: No such file or directory"
    )


def test_program_that_gives_up_rights_gets_another_server() -> None:
    """The first server keeps its kernels, and ends with the last of them."""
    body = """
        rights = "open('/proc/self/status').read().partition('NoNewPrivs:')[2].split()[0]"
        async with run_kernel("fork/kernel") as kernel:
            first = ForkServer.running(())
            assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            print(await of_new_kernel("fork/kernel", rights))
            print(await evaluate(kernel, rights))
            print((ForkServer.running(()) is first, first.dead, first.is_running))
        while first.is_running:
            await anyio.sleep(0.01)
        """
    assert run(body) == ["1", "0", (False, True, True)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_kernel_has_the_groups_of_its_program() -> None:
    body = """
        await of_new_kernel("fork/kernel", "1")
        os.setgroups([12345])
        os.setgid(54321)
        print(await of_new_kernel("fork/kernel", "import os; (os.getgid(), os.getgroups())"))
        """
    assert run(body) == [(54321, [12345])]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_no_kernel_is_forked_as_root_for_a_program_that_has_become_another_user() -> None:
    """The other user may have no right to run this Python; then the launch fails."""
    body = """
        folder = tempfile.mkdtemp()
        os.environ["JUPYTER_RUNTIME_DIR"] = os.environ["IPYTHONDIR"] = folder
        os.chmod(folder, 0o777)
        os.chdir(folder)
        await of_new_kernel("fork/kernel", "1")
        root = ForkServer.running(())
        os.setgid(65534)
        os.setuid(65534)
        try:
            print(await of_new_kernel("fork/kernel", "import os; os.getuid()"))
        except LaunchError as error:
            print("Permission denied" in str(error))
        while root.is_running:
            await anyio.sleep(0.01)
        """
    assert run(body) in ([65534], [True])


def test_state_that_a_kernel_cannot_take_over_takes_another_server() -> None:
    """A process may become less important, but not more so."""
    body = """
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NICE, (0, 0))

        def start():
            os.nice(5)  # of this thread alone
            servers.append(ForkServer.running(()))

        servers = []
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        print(await of_new_kernel("fork/kernel", "import os; os.nice(0)"))
        print(ForkServer.running(()) is servers[0])
        """
    assert run(body) == [0, False]


def test_rights_and_state_stay_as_they_are() -> None:
    assert program_rights() == program_rights()
    assert program_state() == program_state()
