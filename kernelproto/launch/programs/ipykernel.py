"""The program of an ipykernel that loses neither outputs nor replies.

Run as ``python ipykernel.py -f FILE``. The program imports nothing of kernelproto.

ipykernel's iopub socket queues 1,000 unsent messages for each client, which is libzmq's default,
and drops later messages silently. A busy machine, or a client that is suspended for a moment,
causes that. Here the limit is higher.

An interrupt is a signal, and Python raises KeyboardInterrupt in the code that runs at that moment.
In the code of ipykernel, between two messages, that loses a reply or ends the kernel. So here the
exception is raised in the user's code only. IPython runs the statements of a cell one by one, then
the expressions of the request, with code of IPython in between. An interrupt that arrives there is
sent again until a statement or an expression gets it. Other interrupts are ignored, as ipykernel
ignores them between two requests.

Imports that most kernels never need are deferred; see deferred_imports.py. The regular expressions
of the other imports are kept in a file; see compiled_patterns.py.

After a shutdown_request the program ends without the finalization of the interpreter; see
early_exit.py.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import importlib
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

# A number of messages, because libzmq cannot count bytes. Limits.memory limits a kernel's memory.
MOST_UNSENT = 100_000

# How long IPython gets to reach the next statement or expression before an interrupt is sent again.
RETRY_SECONDS = 0.005

# An ipykernel ends with its parent process. With this argument ipykernel does not look for a
# parent.
NO_PARENT = "--IPKernelApp.parent_handle=0"

# The warning that ipykernel 7.3 and 7.4 filter when a kernel starts.
TRIO_WARNING = ".*Trio's signal handling code might have collided.*"

# The name of the package fast_ipykernel in a kernel.
HOOKS = "_fast_ipykernel"

# The argument with which the program prints which hooks are on, and ends.
REPORT = "--kernelproto-hooks"


class InterruptUserCode:
    """Handles SIGINT: raises KeyboardInterrupt in the user's code only.

    Args:
        serving: the function that serves requests of all types.
        hosts: the functions that call the user's code, and catch its exceptions.
        executing: the function that runs a cell, then the expressions of the request.
        failing: the function that shows the exception of a statement; no statement follows it.

    Attributes:
        requests: the number of requests so far.
        begun: whether the code of the current request has begun.
    """

    def __init__(
        self, serving: CodeType, hosts: set[CodeType], executing: CodeType, failing: CodeType
    ) -> None:
        self.serving = serving
        self.hosts = hosts
        self.executing = executing
        self.failing = failing
        self.requests = 0
        self.begun = False

    @property
    def __call__(self) -> Callable[[int, FrameType | None], object]:
        """The function that handles a signal now.

        The frame of a handler in Python would be the last one of the user's traceback.
        """
        own = inspect.currentframe()
        frame = None if own is None else own.f_back  # that of the interrupted code
        if self.strikes_user_code(frame):
            return signal.default_int_handler
        if self.is_between_statements(frame):
            # A thread of `threading` takes locks that the interrupted code may hold.
            _thread.start_new_thread(self.interrupt_again, (self.requests,))
        return _ignore

    def __eq__(self, other: object) -> bool:
        # Trio installs a handler only if the current handler is Python's.
        return self is other or other is signal.default_int_handler

    __hash__ = object.__hash__

    def strikes_user_code(self, frame: FrameType | None) -> bool:
        """Return whether the user's code is among the callers of *frame*."""
        while frame is not None and frame.f_back is not None:
            caller = frame.f_back.f_code
            if caller in self.hosts and frame.f_code.co_filename != caller.co_filename:
                return True
            if caller is self.serving:
                # Completion, inspection and comms run the user's code, too; exceptions are caught.
                return frame.f_code.co_name.startswith(("comm_", "complete_", "inspect_"))
            frame = frame.f_back
        return False

    def is_between_statements(self, frame: FrameType | None) -> bool:
        """Return whether *frame* belongs to an execution that has begun and may go on."""
        while self.begun and frame is not None and frame.f_code is not self.failing:
            if frame.f_code is self.executing:
                return True
            frame = frame.f_back
        return False

    def begin_request(self) -> None:
        """Record that the kernel serves another request."""
        self.requests += 1
        self.begun = False

    def begin_code(self) -> None:
        """Record that IPython begins the code of the request."""
        self.begun = True

    def interrupt_again(self, request: int) -> None:
        """Send the interrupt of a request again, unless the kernel serves a later request."""
        time.sleep(RETRY_SECONDS)
        if request != self.requests:
            return
        if hasattr(signal, "pthread_kill"):
            # A signal to the main thread also ends a blocking call there.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


def spare_own_code(kernel: Any) -> None:
    """Limit interrupts to the user's code; do nothing to an unknown kind of kernel."""
    try:
        shell = kernel.shell
        handler: Any = InterruptUserCode(
            serving=code_of(kernel.dispatch_shell),
            hosts=set(map(code_of, (shell.run_code, shell.user_expressions, shell.events.trigger))),
            executing=code_of(kernel.do_execute),
            failing=code_of(shell.showtraceback),
        )
        shell.events.register("pre_execute", handler.begin_code)
        before = kernel.pre_handler_hook
        # Otherwise an interrupt while Python's handler is set would end the kernel.
        replaces_handler = "saved_sigint_handler" in code_of(before).co_names
    except AttributeError:
        return

    def pre_handler_hook() -> None:
        if not replaces_handler:
            before()
        previous = signal.signal(signal.SIGINT, handler)
        handler.begin_request()
        if replaces_handler:
            kernel.saved_sigint_handler = previous

    kernel.pre_handler_hook = pre_handler_hook


def code_of(method: Any) -> CodeType:
    """Return the code of a method."""
    code: CodeType = method.__func__.__code__
    return code


def parse_usual_arguments(app: Any, argv: list[str]) -> bool:
    """Parse ``-f FILE [NO_PARENT]`` in place of traitlets, which takes an eighth of a forked start.

    Return False, without a change, for all other arguments.
    """
    if len(argv) < 2 or argv[0] != "-f" or not app.has_trait("cli_config"):
        return False
    settings: dict[str, Any] = {"connection_file": argv[1]}
    if argv[2:] == [NO_PARENT]:
        settings["parent_handle"] = 0
    elif argv[2:]:
        return False
    config = type(app.cli_config)({"IPKernelApp": settings})
    app.argv, app.extra_args, app.cli_config = list(argv), [], config
    app.update_config(config)
    return True


def flush_outputs() -> None:
    """Send the outputs of the functions of atexit; otherwise ipykernel loses the last of them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def load_hooks() -> Any:
    """Load the hooks that make ipykernel faster, under a name that hides no other module."""
    loaded = sys.modules.get(HOOKS)
    if loaded is not None:
        return loaded
    folder = os.path.join(os.path.dirname(os.path.realpath(__file__)), "fast_ipykernel")
    spec = importlib.util.spec_from_file_location(
        HOOKS, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[HOOKS] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[HOOKS])
    return sys.modules[HOOKS]


def prepare() -> None:
    """Do the common part of the start of all kernels once, in the fork server."""
    from ipykernel.kernelapp import IPKernelApp

    patient(load_hooks().prepare(IPKernelApp))
    compile_patterns()


def compile_patterns() -> None:
    """Have Python compile the patterns of tokens, completions, globs and warnings."""
    from fnmatch import filter as matching

    from IPython.core.completer import IPCompleter
    from IPython.core.inputtransformer2 import TransformerManager

    manager: Any = TransformerManager  # without types
    manager().transform_cell("1")
    completer: Any = IPCompleter
    completer(shell=None, namespace={}, global_namespace={})
    for pattern in ("*.py", "*.ipy"):
        matching((), pattern)
    re.compile(TRIO_WARNING, re.IGNORECASE)


def main() -> None:
    """Run an ipykernel with the arguments of the command line."""
    from ipykernel.kernelapp import IPKernelApp

    try:
        hooks = load_hooks()
        if sys.argv[1:] == [REPORT]:
            print(hooks.report())
            return
        application = patient(hooks.fast(IPKernelApp))
    except ValueError as error:
        sys.exit(str(error))
    application.launch_instance()


@cache
def patient(application: Any) -> Any:
    """Return a subclass of an application that loses no outputs and interrupts only user code."""

    class PatientKernelApp(application):  # type: ignore[misc]
        def parse_command_line(self, argv: list[str] | None = None) -> None:
            if not parse_usual_arguments(self, sys.argv[1:] if argv is None else argv):
                stock: Any = super()
                stock.parse_command_line(argv)

        def init_iopub(self, context: Any) -> None:
            context.sndhwm = MOST_UNSENT  # of the sockets that are made from now on
            stock: Any = super()
            stock.init_iopub(context)

        def init_kernel(self) -> None:
            stock: Any = super()
            stock.init_kernel()
            spare_own_code(self.kernel)
            # The functions of ipykernel that end its threads are called after this one.
            atexit.register(flush_outputs)

    # The name of the application in the logs: programs look for that of ipykernel.
    PatientKernelApp.__name__ = "IPKernelApp"
    return PatientKernelApp


def name_launcher() -> None:
    """Name ipykernel's own program in sys.argv, by which programs recognize an ipykernel."""
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv[0] = (launcher and launcher.origin) or "ipykernel_launcher"


def load(name: str) -> Any:
    """Load a file of this folder, so that the user's code cannot import the file by name."""
    path = os.path.join(os.path.dirname(__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    folder = os.path.dirname(os.path.realpath(__file__))
    if os.path.realpath(sys.path[0]) == folder:
        del sys.path[0]  # modules of this folder would hide others with the same names
    name_launcher()
    # Imports make many objects and little garbage. Frozen, these objects take no time in later
    # collections, two of which are made at the end of the kernel.
    gc.disable()
    with load("compiled_patterns").compiled_patterns() or contextlib.nullcontext():
        load("deferred_imports").defer_imports()
        importlib.import_module("ipykernel.kernelapp")
        load_hooks()
    with contextlib.suppress(AttributeError):  # PyPy freezes no objects
        gc.freeze()
    gc.enable()
    main()
    load("early_exit").leave()
    with contextlib.suppress(AttributeError):
        gc.unfreeze()  # Python finalizes the interpreter
