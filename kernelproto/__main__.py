"""The command ``kernelproto`` as a process: ``python -m kernelproto``, and the installed script."""

import signal

# The imports take a while. Until they are done, Ctrl-C ends the process at once, without a
# traceback; nothing has begun that would have to be undone.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from kernelproto.cli.main import program

if __name__ == "__main__":
    program()
