"""Kernels on other machines, over OpenSSH.

Theory of operation
-------------------
``ssh/HOST/NAME`` is the kernelspec NAME of HOST, and ``ssh/HOST/env/NAME`` an environment with
ipykernel. Nothing has to be installed there but Python 3.9: far_side.py, which lists the kernel
types, and the program of the host arrive on standard input, and every argument arrives as JSON, so
that no shell sees one.

The host runs the kernels and keeps their messages, see launch/programs/host. The socket of the host
is forwarded through one connection of OpenSSH, which the kernels of a host share. If the connection
is lost, the kernels are unreachable, and go on; the link connects again, and continues after the
last message.

    names, failures   PURE: the names of hosts; the errors of OpenSSH by kind
    connection        the connection to one host
    far_host          the kernel types of a host
    manager           the handle on one kernel
    launch            starts and adopts kernels
    provider          the provider
"""

from kernelproto.ssh.connection import HostOptions
from kernelproto.ssh.failures import RemoteHostError
from kernelproto.ssh.provider import SSHProvider

__all__ = ["HostOptions", "RemoteHostError", "SSHProvider"]
