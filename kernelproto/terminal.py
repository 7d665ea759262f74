"""Print outputs and ask for input on a terminal."""

from __future__ import annotations

import getpass
import sys

from kernelproto.wire.content import ErrorOutput, InputRequest, MimeBundle, Output, Stream


def print_output(output: Output) -> None:
    """Print the text of an output; a traceback keeps the colours."""
    match output:
        case Stream(name="stderr", text=text):
            print(text, end="", file=sys.stderr, flush=True)
        case Stream(text=text):
            print(text, end="", flush=True)
        case ErrorOutput(traceback=traceback):
            print("\n".join(traceback), file=sys.stderr, flush=True)
        case MimeBundle(data={"text/plain": text}):
            print(text, flush=True)
        case _:
            pass


def ask_on_terminal(question: InputRequest) -> str:
    """Ask for a line on the terminal, without echo for a password."""
    if question.password:
        return getpass.getpass(question.prompt)
    return input(question.prompt)
