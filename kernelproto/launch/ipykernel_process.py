"""The program of an ipykernel that keeps outputs until its clients take them.

It is run by its path, ``python ipykernel_process.py -f FILE``, and imports nothing of kernelproto.

Of the outputs that could not be sent yet, ipykernel's iopub keeps 1,000 messages for each client,
which is libzmq's default, and drops what comes after them without a word. A busy machine or a
client that is suspended for a moment is enough for that.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

# Messages, because libzmq counts nothing else. A kernel can be given a limit of its memory.
MOST_UNSENT = 100_000


def main() -> None:
    """Be an ipykernel, with the arguments of the command line."""
    from ipykernel.kernelapp import IPKernelApp

    class PatientKernelApp(IPKernelApp):
        def init_iopub(self, context: Any) -> None:
            context.sndhwm = MOST_UNSENT  # of the sockets that are made from now on
            super().init_iopub(context)  # type: ignore[no-untyped-call]

    PatientKernelApp.launch_instance()


if __name__ == "__main__":
    folder = os.path.dirname(os.path.realpath(__file__))
    if os.path.realpath(sys.path[0]) == folder:
        del sys.path[0]  # its modules have names that others have, too
    # Programs look there to see that they run in an ipykernel.
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv[0] = (launcher and launcher.origin) or "ipykernel_launcher"
    main()
