"""Observations of code in an ipykernel about its outputs: each function returns one.

The tests compare the observations of a stock ipykernel and of one with hooks. This module as a
program does so with other versions of ipykernel, which pip installs into a temporary folder each:

    python -m tests.launch.programs.behaviours 6.29.5 7.0.0 7.4.0
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from kernelproto import Kernel, connect_kernel
from kernelproto.wire.content import Output

GUARD_SECONDS = 60

# The last release of each old series, and each release that the hooks are made for.
RELEASES = ("6.29.5", "6.30.1", "6.31.0", "7.0.0", "7.0.1", "7.1.0", "7.2.0", "7.3.0", "7.4.0")

Behaviour = Callable[[Kernel], Awaitable[Any]]

BEHAVIOURS: list[Behaviour] = []


def behaviour(function: Behaviour) -> Behaviour:
    BEHAVIOURS.append(function)
    return function


async def run(kernel: Kernel, code: str, **options: Any) -> list[tuple[str, object]]:
    """Run code; return its outputs, with neighbouring texts of one stream as one."""
    with anyio.fail_after(GUARD_SECONDS):
        execution = kernel.execute(textwrap.dedent(code), **options)
        outputs = [output async for output in execution]
        await execution
    return entries(outputs)


def entries(outputs: Iterable[Output]) -> list[tuple[str, object]]:
    """Return kind and value of outputs, with neighbouring texts of one stream as one."""
    seen: list[tuple[str, object]] = []
    for output in outputs:
        entry = output.to_dict()
        kind = entry.get("name") or entry["output_type"]
        value = entry.get("text") or entry.get("data") or entry.get("ename")
        if seen and seen[-1][0] == kind and isinstance(value, str):
            seen[-1] = (kind, f"{seen[-1][1]}{value}")
        else:
            seen.append((kind, value))
    return seen


def text_of(outputs: list[tuple[str, object]], name: str = "stdout") -> str:
    return "".join(str(value) for kind, value in outputs if kind == name)


@behaviour
async def formats_of_plain_values(kernel: Kernel) -> object:
    values = (
        "(6, 'text', [1, 2], {'a': None}, 2.5, True, (), None, b'raw', type('List', (list,), {})())"
    )
    show = f"""
        from IPython.display import display
        for value in {values}:
            display(value)
        {values}[3]
        """
    before = await run(kernel, show)
    setup = """
        formatters = get_ipython().display_formatter.formatters
        formatters["text/html"].for_type(list, lambda value: f"<ul>{len(value)}</ul>")
        formatters["text/html"].for_type_by_name("builtins", "dict", lambda value: "<dl>")
        formatters["text/latex"].for_type(object, lambda value: "$x$")
        formatters["text/markdown"].for_type(str, lambda value: 1 / 0)
        """
    bundles = """
        formatter = get_ipython().display_formatter
        formatter.mimebundle_formatter.for_type(int, lambda value: {"text/x-number": str(value)})
        formatter.ipython_display_formatter.for_type(bool, lambda value: print("truth", value))
        """
    await run(kernel, setup)
    after = await run(kernel, show)
    await run(kernel, bundles)
    return before, after, await run(kernel, show)


@behaviour
async def order(kernel: Kernel) -> object:
    outputs = await run(
        kernel,
        """
        import sys
        from IPython.display import clear_output, display
        for n in range(500):
            print("out", n, file=sys.stderr if n % 3 == 0 else sys.stdout)
            display({"text/plain": str(n)}, raw=True)
            if n == 250:
                clear_output()
        print("last")
        n
        """,
    )
    assert len(outputs) == 1003
    return outputs


@behaviour
async def unfinished_lines(kernel: Kernel) -> object:
    return await run(
        kernel,
        """
        import sys
        for n in range(300):
            sys.stdout.write(f"{n} ")
            if n % 50 == 0:
                sys.stdout.flush()
                sys.stderr.flush()
        """,
    )


@behaviour
async def six_threads(kernel: Kernel) -> object:
    outputs = await run(
        kernel,
        """
        import sys, threading
        def lines(name):
            for n in range(500):
                sys.stdout.write(f"{name} {n}\\n")
                if n % 20 == 0:
                    sys.stdout.flush()
                if n % 33 == 0:
                    display({"text/plain": f"{name} {n}"}, raw=True)
        threads = [threading.Thread(target=lines, args=[name]) for name in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
    )
    numbers: dict[str, list[int]] = {}
    for line in text_of(outputs).splitlines():
        name, number = line.split()
        numbers.setdefault(name, []).append(int(number))
    complete = sorted(numbers.values()) == [list(range(500))] * 6
    if version("ipykernel").startswith("7.0."):
        return complete  # it gives outputs of threads wrong parents, so that they are missing here
    assert complete
    # A display comes after all that its thread has printed before.
    printed: dict[str, int] = {}
    for kind, value in outputs:
        if kind == "stdout":
            for line in str(value).splitlines():
                name, _, number = line.partition(" ")
                printed[name] = int(number)
        else:
            assert isinstance(value, dict)
            name, _, number = value["text/plain"].partition(" ")
            assert printed[name] >= int(number)
    return {name: len(found) for name, found in numbers.items()}


@behaviour
async def late_output_of_a_thread(kernel: Kernel) -> object:
    await run(
        kernel,
        """
        import threading
        go = threading.Event()
        def late():
            go.wait()
            print("from the thread")
            display({"text/plain": "from the thread"}, raw=True)
        thread = threading.Thread(target=late)
        thread.start()
        """,
    )
    return await run(kernel, "print('before'); go.set(); thread.join(); print('after')")


@behaviour
async def output_of_a_task(kernel: Kernel) -> object:
    await run(
        kernel,
        """
        import asyncio
        going = asyncio.Event()
        async def late():
            await going.wait()
            print("from the task")
        task = asyncio.ensure_future(late())
        """,
    )
    return await run(kernel, "print('before'); going.set(); await task; print('after')")


@behaviour
async def text_is_flushed_while_code_runs(kernel: Kernel) -> object:
    with tempfile.TemporaryDirectory() as folder, anyio.fail_after(GUARD_SECONDS):
        execution = kernel.execute(
            "import os, time\n"
            f"print('now')\nwhile not os.path.exists('{folder}/go'): time.sleep(0.01)\n"
            f"print('again')\nwhile not os.path.exists('{folder}/on'): time.sleep(0.01)"
        )
        first = await anext(execution)
        Path(folder, "go").touch()
        second = await anext(execution)
        Path(folder, "on").touch()
        await execution
    return [first.to_dict(), second.to_dict()]


@behaviour
async def raw_output(kernel: Kernel) -> object:
    outputs = await run(
        kernel,
        """
        import os, subprocess, time
        os.write(1, b"raw\\n")
        subprocess.run(["echo", "program"])
        os.system("echo shell >&2")
        print("printed")
        time.sleep(0.5)
        """,
    )
    return sorted(text_of(outputs).splitlines()), text_of(outputs, "stderr")


@behaviour
async def fork_in_a_cell(kernel: Kernel) -> object:
    outputs = await run(
        kernel,
        """
        import os, sys, time
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            print("child", flush=True)
            os._exit(3)
        status = os.waitpid(pid, 0)[1]
        print("parent", os.waitstatus_to_exitcode(status))
        time.sleep(0.3)
        """,
    )
    return sorted(text_of(outputs).splitlines())


@behaviour
async def multiprocessing_pool(kernel: Kernel) -> object:
    outputs = await run(
        kernel,
        """
        import multiprocessing, sys, time
        def square(n):
            sys.stdout.write(f"square {n}\\n")
            sys.stdout.flush()
            return n * n
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(square, range(4)))
        time.sleep(0.3)
        """,
    )
    return sorted(text_of(outputs).splitlines())


@behaviour
async def large_displays(kernel: Kernel) -> object:
    outputs = await run(
        kernel,
        """
        for n in range(20):
            print("x" * 50_000)
            display({"text/plain": str(n) * 300_000}, raw=True)
        """,
    )
    return [(kind, len(str(value))) for kind, value in outputs]


@behaviour
async def unusual_values(kernel: Kernel) -> object:
    """They are no JSON, or need escape sequences."""
    return await run(
        kernel,
        r"""
        import datetime, decimal, warnings
        warnings.simplefilter("ignore")
        print("\u00e9 \U0001f600 \x00 \\ \" \x1b[31m")
        for value in (float("nan"), float("inf"), 10**30, b"bytes", (1, 2), {1: 2}, {"a": None},
                      datetime.datetime(2020, 1, 2), range(3)):
            display({"text/plain": "value", "application/json": value}, raw=True)
        """,
    )


@behaviour
async def subshell_while_the_kernel_is_busy(kernel: Kernel) -> object:
    if kernel.info is None or "kernel subshells" not in kernel.info.supported_features:
        return None
    subshell = (await kernel.create_subshell()).subshell_id
    with anyio.fail_after(GUARD_SECONDS):
        await run(kernel, "import threading; go = threading.Event()")
        main = kernel.execute("print('main', flush=True); go.wait(); print('end')")
        first = await anext(main)
        other = await run(kernel, "print('sub'); go.set(); 'done'", subshell_id=subshell)
        rest = [output.to_dict() async for output in main]
        await main
    await kernel.delete_subshell(subshell)
    return first.to_dict(), other, rest, await run(kernel, "print('main again')")


@behaviour
async def new_subscriber_in_a_flood(kernel: Kernel) -> object:
    with tempfile.TemporaryDirectory() as folder, anyio.fail_after(GUARD_SECONDS):
        execution = kernel.execute(
            "import os\nn = 0\n"
            f"while not os.path.exists('{folder}/stop'):\n"
            "    display({'text/plain': str(n)}, raw=True)\n    n += 1"
        )
        await anext(execution)
        seen: list[int] = []
        async with (
            connect_kernel(kernel.connection_info) as client,
            client.messages() as messages,
        ):
            async for message, _ in messages:
                if message.msg_type == "display_data":
                    seen.append(int(message.content.data["text/plain"]))
                if len(seen) == 100:
                    break
        Path(folder, "stop").touch()
        await execution
    return [number - seen[0] for number in seen]


@behaviour
async def captured(kernel: Kernel) -> object:
    first = await run(
        kernel,
        """\
        %%capture caught
        import sys
        print("out")
        print("err", file=sys.stderr)
        display({"text/plain": "display"}, raw=True)
        """,
    )
    second = await run(kernel, "print(caught.stdout, caught.stderr, len(caught.outputs))")
    third = await run(
        kernel,
        """
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()) as file:
            print("redirected")
        print("visible", repr(file.getvalue()))
        """,
    )
    return first, second, third


@behaviour
async def log_records(kernel: Kernel) -> object:
    return await run(
        kernel,
        """
        import logging
        logging.warning("warning")
        log = get_ipython().kernel.log
        class Kept(logging.Handler):
            def emit(self, record):
                kept.append(record.getMessage())
        kept = []
        log.debug("not seen")
        log.addHandler(Kept(logging.DEBUG))
        log.debug("seen")
        print(kept)
        log.removeHandler(log.handlers[-1])
        """,
    )


@behaviour
async def figures(kernel: Kernel) -> object:
    if find_spec("matplotlib") is None:
        return None
    outputs = await run(
        kernel,
        """
        import matplotlib.pyplot as plt
        print("before")
        plt.plot([1, 2]); plt.show()
        print("between")
        plt.plot([2, 1])
        """,
    )
    return [(kind, sorted(value) if isinstance(value, dict) else value) for kind, value in outputs]


@behaviour
async def widgets(kernel: Kernel) -> object:
    if find_spec("ipywidgets") is None:
        return None
    outputs = await run(
        kernel,
        """
        import ipywidgets
        slider = ipywidgets.IntSlider(value=3)
        display(slider)
        place = ipywidgets.Output()
        with place:
            print("inside")
            display({"text/plain": "inside"}, raw=True)
        print("outside")
        print(len(place.outputs))
        """,
    )
    comms = await kernel.comm_info()
    names = {comm["target_name"] for comm in comms.comms.values()}
    kinds = [kind for kind, _ in outputs]
    return kinds, text_of(outputs), names, len(comms.comms)


@behaviour
async def debugger(kernel: Kernel) -> object:
    if kernel.info is None or not (
        kernel.info.debugger or "debugger" in kernel.info.supported_features
    ):
        return None
    with anyio.fail_after(GUARD_SECONDS):
        first = await kernel.debug("initialize", {"clientID": "test", "adapterID": ""})
        dumped = await kernel.debug("dumpCell", {"code": "x = 1\ny = x + 1\nprint(y)"})
        outputs = await run(kernel, "print('debugged')")
        info = await kernel.debug("debugInfo")
        last = await kernel.debug("disconnect", {"restart": False, "terminateDebuggee": True})
    return first["success"], dumped["success"], outputs, info["success"], last["success"]


@behaviour
async def history(kernel: Kernel) -> object:
    for number in range(10):
        await kernel.execute(f"{number} + 0")
    tail = (await kernel.history("tail", n=3)).history
    found = (await kernel.history("search", pattern="[4-6] + 0")).history
    span = (await kernel.history("range", session=0, start=2, stop=4)).history
    magic = await run(kernel, "%history -n 1-3")
    everything = await run(kernel, "%history -g 7 + 0")
    return [list(entry)[1:] for entry in (*tail, *found, *span)], magic, everything


@behaviour
async def history_file(kernel: Kernel) -> object:
    """Another program reads the inputs once a second has passed."""
    for number in range(10):
        await kernel.execute(f"{number} + 0")
    return await run(
        kernel,
        """
        import sqlite3, time
        manager = get_ipython().history_manager
        found = []
        with sqlite3.connect(str(manager.hist_file)) as database:
            until = time.monotonic() + 20
            while len(found) < 11 and time.monotonic() < until:
                time.sleep(0.05)
                found = database.execute(
                    "SELECT line, source FROM history WHERE session = ?", [manager.session_number]
                ).fetchall()
        print(found[:10], len(found))
        """,
    )


@behaviour
async def questions(kernel: Kernel) -> object:
    return await run(
        kernel,
        "print('before')\nanswer = input('name? ')\nprint('after', answer)",
        on_input=lambda request: f"answer to {request.prompt}",
    )


@behaviour
async def errors(kernel: Kernel) -> object:
    outputs = await run(kernel, "print('before')\n1 / 0")
    assert [kind for kind, _ in outputs] == ["stdout", "error"]
    with anyio.fail_after(GUARD_SECONDS):
        # The first one fails only after both were sent.
        executions = [
            kernel.execute(code, on_input=lambda _: "")
            for code in ("input()\n1 / 0", "print('not run')")
        ]
        statuses: list[str] = []
        async with executions[0], executions[1]:
            statuses += [(await execution).status for execution in executions]
    return outputs, statuses, await run(kernel, "print('run')")


@behaviour
async def transformers(kernel: Kernel) -> object:
    """Those of users are called as often as ever, and see the code."""
    return [
        await run(kernel, "%time 1\n!echo shell\nfiles = !echo a; print(files)\n"),
        await run(
            kernel,
            """
            seen = []
            def shout(lines):
                seen.append(len(lines))
                return [line.replace("quiet", "LOUD") for line in lines]
            get_ipython().input_transformers_post.append(shout)
            """,
        ),
        await run(kernel, "print('quiet', seen)"),
        await run(kernel, "get_ipython().input_transformers_post.remove(shout)"),
        await run(kernel, "print('quiet')"),
    ][1:]


@behaviour
async def identity(kernel: Kernel) -> object:
    """Programs recognise an ipykernel by these."""
    return await run(
        kernel,
        """
        import sys, inspect
        from ipykernel.iostream import OutStream
        shell = get_ipython()
        for thing in (sys.stdout, sys.stderr, shell, shell.kernel, shell.kernel.session,
                      shell.kernel.iopub_thread, shell.history_manager, sys.displayhook):
            print(type(thing).__module__, type(thing).__name__)
        print(isinstance(sys.stdout, OutStream), sys.stdout.isatty(), sys.stdout.encoding,
              sys.stdout.name, sys.stdout.writable(), sys.stdout.write("x"))
        print([name for name in sys.path if "kernelproto" in name and "programs" in name])
        print("IPKernelApp" in shell.config, shell.kernel.session.check_pid)
        for wrong in (1, b"x"):
            try:
                sys.stdout.write(wrong)
            except TypeError as error:
                print(error)
        """,
    )


@behaviour
async def aggressive_reset(kernel: Kernel) -> object:
    """IPython removes the modules that were loaded after the start."""
    code = """
        import sys, colorsys
        before = get_ipython()._sys_modules_keys
        print(sorted(set(sys.modules) - before), sorted(before & {"json", "colorsys"}))
        print("colorsys" in before, len(before) > 100, before >= {"os", "sys"}, {"os"} - before)
        """
    outputs = [await run(kernel, code), await run(kernel, "get_ipython().reset(aggressive=True)")]
    loaded = "import sys; print([name in sys.modules for name in ('colorsys', 'json', 'os')])"
    return [*outputs, await run(kernel, loaded), await run(kernel, "import colorsys; 6 * 7")]


@behaviour
async def completion_and_inspection(kernel: Kernel) -> object:
    await kernel.execute("import os")
    return (
        (await kernel.complete("os.pat")).matches,
        (await kernel.inspect("os.path.join")).found,
        (await kernel.is_complete("for x in y:")).status,
    )


def passes(release: str) -> bool:
    """Run the tests with a release of ipykernel, and print which hooks are on."""
    from kernelproto.launch.programs import ipykernel

    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", "pip", "install", "-q", "--target", folder]
        packages = [f"ipykernel=={release}", "nest_asyncio"]
        subprocess.run([*install, "--no-deps", *packages], check=True)
        environ = {**os.environ, "PYTHONPATH": folder}
        report = [sys.executable, ipykernel.__file__, ipykernel.REPORT]
        print(release, flush=True)
        subprocess.run(report, check=True, env=environ)
        tests = str(Path(__file__).with_name("test_fast_ipykernel.py"))
        pytest = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", tests]
        return subprocess.run(pytest, env=environ).returncode == 0


def main(releases: Sequence[str]) -> None:
    """Run the tests with each release; exit with an error that names those that failed."""
    failed = [release for release in releases if not passes(release)]
    if failed:
        sys.exit(f"The tests failed with ipykernel {', '.join(failed)}.")


if __name__ == "__main__":
    main(sys.argv[1:] or RELEASES)
