"""A stock ipykernel, made faster by hooks. ipykernel.py loads this package by its path.

Theory of operation
-------------------
Each hook is a small change to one class or function of ipykernel, IPython or jupyter_client, which
saves time and which users do not notice: the same outputs, in the same order, with the same
parents. A hook names the code on which it depends (hook.py). When the kernel starts, each hook is
compared with the installed version (application.py). A hook that does not fit is left out, and that
code stays as it is.

No thread except the IOPub thread sends on the IOPub socket: a signal handler that raises an
exception between two frames of a message would leave half a message behind.

A signal handler may raise an exception between any two instructions of the main thread: when users
interrupt a cell, or by a timer of theirs. So no hook relies on two instructions being executed
together. The modules say in which order they do things, and why.

The package imports nothing of kernelproto.
"""

from __future__ import annotations

from .application import examine, fast, prepare, report

__all__ = ["examine", "fast", "prepare", "report"]
