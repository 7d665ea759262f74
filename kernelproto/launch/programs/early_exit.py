"""How an ipykernel ends without the finalization of the interpreter.

ipykernel.py and forkserver.py load this file, which imports nothing of kernelproto.

Theory of operation
-------------------
Finalization takes most of the time of a shutdown, because Python deletes all objects one by one.
The user notices only these parts of the finalization, which are done here in Python's order:

1. Python waits for the threads that are not daemons.
2. Python calls the functions of ``atexit``. One of them is IPython's, which deletes the user's
   variables and the objects in reference cycles.
3. Python deletes the variables of the user's modules, and then the objects in reference cycles.
4. Python writes the buffers of the files that are still open. Here this is also done after 1,
   because a file in a reference cycle may be closed before the buffer is written.
5. C's ``exit`` calls the functions of C's ``atexit``, and writes the buffers of C's ``stdio``.

The operating system releases all other objects, without their finalizers (``__del__``). Those of
the kernel's own packages write nothing. If another object has a finalizer, or if Python lacks a
function that is needed here, Python finalizes the interpreter as in any other program.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple

# With "0" in this variable of the kernel's environment, Python finalizes the interpreter.
VARIABLE = "KERNELPROTO_EARLY_EXIT"

# The time for one file, in seconds, after which another thread writes the remaining files; and the
# number of such threads. A write to a full pipe, or a thread that holds the lock of a file, may
# have no end.
FLUSH_SECONDS = 1.0
FLUSH_THREADS = 3

# The time to wait for multiprocessing's resource tracker. Another process may hold the pipe open.
TRACKER_SECONDS = 1.0

# The finalizers of these packages and classes write nothing and delete nothing.
KERNEL_PACKAGES = frozenset(
    {
        "IPython",
        "_fast_ipykernel",
        "ipykernel",
        "jupyter_client",
        "tornado",
        "traitlets",
        "zmq",
    }
)
HARMLESS_CLASSES = frozenset(
    {
        ("_asyncio", "Future"),
        ("_asyncio", "Task"),
        ("_socket", "socket"),
        ("asyncio.base_events", "BaseEventLoop"),
    }
)

# The modules of other coroutines that may still be suspended.
ASYNCIO = ("asyncio", "deferred_imports")

# The attributes with the frame of a coroutine or a generator; None after the end.
FRAMES = ("cr_frame", "gi_frame", "ag_frame")

BUFFERED = (io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair, io.TextIOWrapper)

INSTALLED = frozenset({"site-packages", "dist-packages"})
STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
OWN_FOLDER = os.path.dirname(os.path.realpath(__file__))


class Survey(NamedTuple):
    """The objects that finalization would take care of.

    Args:
        files: weak references to the files that may have unwritten buffers.
        needs_finalization: whether another object has a finalizer that may write something.
    """

    files: list[weakref.ref[Any]]
    needs_finalization: bool


def survey() -> Survey:
    """Look at all objects that are not frozen; see ``gc.freeze``."""
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if finalizing_class(kind) is not None}
    found = [thing for thing in objects if type(thing) in kinds]
    return Survey(
        [weakref.ref(thing) for thing in found if type(thing) in BUFFERED],
        not all(map(is_harmless, found)),
    )


def users_modules() -> list[str]:
    """Return the names of the user's modules that are not frozen."""
    modules = [thing for thing in gc.get_objects() if type(thing) is ModuleType]
    return [module.__name__ for module in modules if is_users(module)]


def leave(frozen: Survey | None = None, modules: Iterable[str] = ()) -> None:
    """End this process with exit status 0; return if Python has to finalize the interpreter.

    Args:
        frozen: the survey from before ``gc.freeze``; None if the frozen objects are looked at now.
        modules: the names of the user's modules from before ``gc.freeze``.
    """
    if os.environ.get(VARIABLE) == "0" or os.name != "posix":
        return
    try:
        import ctypes

        # This call keeps Python's lock, so that no other thread runs Python code any more.
        exit_process = ctypes.PyDLL(None).exit
        end_threads, call_functions = threading._shutdown, atexit._run_exitfuncs  # type: ignore[attr-defined]
        unfreeze = gc.unfreeze
    except (AttributeError, ImportError, OSError):
        return
    try:
        end_threads()
        flush_all([*(frozen.files if frozen is not None else ()), *survey().files])
        call_functions()
    except BaseException:
        traceback.print_exc()
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except Exception:
        return  # Python tries again, reports the failure and exits with another status
    if not delete_users_variables([*modules, *users_modules()]):
        return
    if frozen is None:
        unfreeze()
    rest = survey()
    if rest.needs_finalization or (frozen is not None and frozen.needs_finalization):
        return
    flush_all([*(frozen.files if frozen is not None else ()), *rest.files])
    end_resource_tracker()
    exit_process(0)


def end_resource_tracker() -> None:
    """Wait for the process that removes leaked semaphores and shared memory of multiprocessing.

    The tracker begins its work once the pipe is closed. The tracker is killed with the group of
    this process, after the end of this process.
    """
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    pipe, pid = getattr(tracker, "_fd", None), getattr(tracker, "_pid", None)
    if pipe is None or pid is None:
        return
    deadline = time.monotonic() + TRACKER_SECONDS
    with contextlib.suppress(OSError):  # the tracker is not a child of this process, or has ended
        os.close(pipe)
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)


def delete_users_variables(names: list[str]) -> bool:
    """Delete the variables of the user's modules and the last exception, then unused cycles.

    Return False, without a change, if a thread may still use the modules.

    Args:
        names: the names of the modules.
    """
    modules = [sys.modules[name] for name in names if name in sys.modules]
    if modules and not all(map(is_kernels_thread, threading.enumerate())):
        return False
    for module in modules:
        variables = vars(module)
        for name in list(variables):
            if name != "__builtins__":
                variables[name] = None
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            setattr(sys, name, None)
    gc.collect()
    return True


def is_users(module: object) -> bool:
    """Return whether an object is a loaded module from a file that was not installed."""
    variables = vars(module) if type(module) is ModuleType else {}
    name, path = variables.get("__name__"), variables.get("__file__")
    return (
        isinstance(path, str)
        and isinstance(name, str)
        and sys.modules.get(name) is module
        and not path.startswith(STANDARD_LIBRARY)
        and INSTALLED.isdisjoint(path.split(os.sep))
        and not os.path.realpath(path).startswith(OWN_FOLDER)
    )


def is_kernels_thread(thread: threading.Thread) -> bool:
    """Return whether a thread is the main thread or one of ipykernel's."""
    return thread is threading.main_thread() or is_kernels(type(thread).__module__)


def finalizing_class(kind: type) -> type | None:
    """Return the class that gives *kind* a finalizer; None if there is none."""
    return next((base for base in kind.__mro__ if "__del__" in base.__dict__), None)


def is_harmless(thing: object) -> bool:
    """Return whether nothing is lost if the finalizer of an object is not called."""
    kind = type(thing)
    if kind.__module__ == "builtins":
        for name in FRAMES:
            if hasattr(kind, name):
                frame = getattr(thing, name)
                return frame is None or is_kernels(frame.f_globals.get("__name__"), *ASYNCIO)
    finalizing = finalizing_class(kind)
    assert finalizing is not None
    if finalizing.__module__ == "_io":  # this finalizer calls the method `close` of *kind*
        return kind.__module__ == "_io" or is_kernels(kind.__module__)
    return (
        is_kernels(finalizing.__module__)
        or (finalizing.__module__, finalizing.__qualname__) in HARMLESS_CLASSES
    )


def is_kernels(module: object, *others: str) -> bool:
    """Return whether the name of a module belongs to a package of the kernel, or to *others*."""
    package = str(module).partition(".")[0]
    return package in KERNEL_PACKAGES or package in others


def flush_all(files: Iterable[weakref.ref[Any]]) -> None:
    """Write the buffers of files; give up a file that takes too long."""
    remaining = iter(list(files))
    done = threading.Event()

    def flush_remaining() -> None:
        for reference in remaining:
            file = reference()
            if file is not None:
                with contextlib.suppress(Exception):  # the file is closed, or the disk is full
                    file.flush()
        done.set()

    for _ in range(FLUSH_THREADS):
        _thread.start_new_thread(flush_remaining, ())
        if done.wait(FLUSH_SECONDS):
            return
