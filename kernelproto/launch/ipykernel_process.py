"""The program of an ipykernel that loses neither outputs nor replies.

It is run by its path, ``python ipykernel_process.py -f FILE``, and imports nothing of kernelproto.

Of the outputs that could not be sent yet, ipykernel's iopub keeps 1,000 messages for each client,
which is libzmq's default, and drops what comes after them without a word. A busy machine or a
client that is suspended for a moment is enough for that.

An interrupt is a signal, and Python raises KeyboardInterrupt wherever it is just then. In
ipykernel's own code, between two messages, that costs a reply or ends the kernel. So here it is
raised in the user's code alone; any other one is ignored, as ipykernel does between two requests.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from types import CodeType, FrameType
from typing import Any, cast

# Messages, because libzmq counts nothing else. A kernel can be given a limit of its memory.
MOST_UNSENT = 100_000


class InterruptUserCode:
    """Handles SIGINT: raises KeyboardInterrupt in the user's code, and nowhere else.

    Args:
        serving: the function that serves a request, whatever it asks for.
        hosts: the functions that call the user's code, and catch what it raises.
    """

    def __init__(self, serving: CodeType, hosts: set[CodeType]) -> None:
        self.serving = serving
        self.hosts = hosts

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.strikes_user_code(frame):
            signal.default_int_handler(signum, frame)

    def __eq__(self, other: object) -> bool:
        # Trio has a handler of its own in place of Python's, and of no other one.
        return self is other or other is signal.default_int_handler

    __hash__ = object.__hash__

    def strikes_user_code(self, frame: FrameType | None) -> bool:
        """Return whether the user's code is among the callers of *frame*."""
        while frame is not None and frame.f_back is not None:
            caller = frame.f_back.f_code
            if caller in self.hosts and frame.f_code.co_filename != caller.co_filename:
                return True
            if caller is self.serving:
                # Completion and comms run code of the user's as well. What they raise is caught.
                return frame.f_code.co_name.startswith(("comm_", "complete_", "inspect_"))
            frame = frame.f_back
        return False


def spare_own_code(kernel: Any) -> None:
    """Let interrupts strike the user's code alone; a kernel that is built differently stays so."""
    try:
        shell = kernel.shell
        handler = InterruptUserCode(
            serving=code_of(kernel.dispatch_shell),
            hosts=set(map(code_of, (shell.run_code, shell.user_expressions, shell.events.trigger))),
        )
        before = kernel.pre_handler_hook
    except AttributeError:
        return

    def pre_handler_hook() -> None:
        before()
        signal.signal(signal.SIGINT, handler)

    kernel.pre_handler_hook = pre_handler_hook


def code_of(method: Any) -> CodeType:
    """Return the code of a method."""
    code: CodeType = method.__func__.__code__
    return code


def main() -> None:
    """Be an ipykernel, with the arguments of the command line."""
    from ipykernel.kernelapp import IPKernelApp

    class PatientKernelApp(IPKernelApp):
        def init_iopub(self, context: Any) -> None:
            context.sndhwm = MOST_UNSENT  # of the sockets that are made from now on
            super().init_iopub(context)  # type: ignore[no-untyped-call]

        def init_kernel(self) -> None:
            super().init_kernel()  # type: ignore[no-untyped-call]
            spare_own_code(cast("Any", self).kernel)

    PatientKernelApp.launch_instance()


if __name__ == "__main__":
    folder = os.path.dirname(os.path.realpath(__file__))
    if os.path.realpath(sys.path[0]) == folder:
        del sys.path[0]  # its modules have names that others have, too
    # Programs look there to see that they run in an ipykernel.
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv[0] = (launcher and launcher.origin) or "ipykernel_launcher"
    main()
