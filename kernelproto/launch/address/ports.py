"""The tcp ports of kernels: choosing free ports, and finding ports that another program took."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from contextlib import ExitStack
from ipaddress import IPv4Address

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.process.proc import sockets_of_group, tcp_listeners, unix_sockets
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

# Below the ephemeral ports. A client that connects before the kernel listens could get an ephemeral
# port for its own socket, and would then be connected to itself.
#
# Two processes that choose five of these ports at the same moment collide in 0.25 % of all cases.
_PORTS = range(20_000, 30_000)
_MOST_ATTEMPTS = 500

# A kernel binds its ports some 100 ms after they were chosen. Until then the system
# would offer them to the next kernel as well, so they are reserved here.
_reserved: set[int] = set()

_ANY_ADDRESS = str(IPv4Address(0))


def reserve_ports(count: int, ip: str) -> list[int]:
    """Return *count* ports that are free at *ip* and reserved for no kernel of this process.

    Another program may still take a port before the kernel does; see address_was_taken(). The
    caller has to call release_ports() when the kernel is gone.

    Raises:
        InvalidLaunchParameter: *ip* is not an address of this machine.
        OSError: there are not enough free ports.
    """
    ports: list[int] = []
    with ExitStack() as probes:
        # The probes stay open together, so that no other thread gets one of them before the
        # reservation.
        for port in secrets.SystemRandom().sample(_PORTS, min(len(_PORTS), _MOST_ATTEMPTS)):
            probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                probe.bind((ip, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise InvalidLaunchParameter(
                        f"a kernel cannot listen at {ip}: this machine has no such address"
                    ) from error
                continue  # the port is in use
            if port not in _reserved:
                ports.append(port)
            if len(ports) == count:
                _reserved.update(ports)
                return ports
    raise OSError(f"fewer than {count} ports between {_PORTS[0]} and {_PORTS[-1]} are free")


def release_ports(ports: list[int]) -> None:
    """Make these ports available to other kernels."""
    _reserved.difference_update(ports)


def address_was_taken(info: ConnectionInfo, process_group: int | None) -> bool:
    """Return whether another program listens at one of the tcp ports of a kernel.

    While the kernel runs, the answer is known on Linux only. The processes of the kernel's group
    and of its session belong to the kernel, all others do not. If others have all of the ports and
    the kernel has none, no port was taken: the kernel is in a container whose ports are forwarded.

    Args:
        info: the kernel's addresses. Other programs cannot take ipc addresses.
        process_group: the number of the kernel's process group and session; None after the end of
            the kernel.
    """
    if info.transport != "tcp":
        return False
    ports = {info.port(channel) for channel in CHANNEL_NAMES}
    if process_group is None:
        return not all(_can_be_bound(info.ip, port) for port in ports)
    listeners = _listeners(info.ip, ports)
    if not listeners:
        return False
    try:
        kernels_own = sockets_of_group(process_group)
    except PermissionError:  # the kernel runs as another user
        return False
    taken = [sockets for sockets in listeners.values() if kernels_own.isdisjoint(sockets)]
    return 0 < len(taken) < len(ports)


def listens_at(info: ConnectionInfo, process_group: int) -> bool:
    """Return whether a process listens at one of a kernel's addresses, so is the kernel.

    The command line cannot tell: a client's names the connection file as well. Linux only.

    Args:
        info: the kernel's addresses.
        process_group: the number of a process group, or of a session.
    """
    if info.transport == "tcp":
        ports = {info.port(channel) for channel in CHANNEL_NAMES}
        listeners = _listeners(_ANY_ADDRESS, ports).values()
        sockets = {one for sockets in listeners for one in sockets}
    else:
        paths = {info.endpoint(name).removeprefix("ipc://") for name in CHANNEL_NAMES}
        sockets = {one for path, one in unix_sockets() if path in paths}
    try:
        return not sockets.isdisjoint(sockets_of_group(process_group))
    except PermissionError:  # the kernel runs as another user
        return False


def _can_be_bound(ip: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            # As libzmq does; otherwise connections that have just ended would block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _listeners(ip: str, ports: set[int]) -> dict[int, set[str]]:
    """Return the sockets that listen where *ip* can be reached, by their ports."""
    wanted = IPv4Address(ip)
    found: dict[int, set[str]] = {}
    for address, port, listener in tcp_listeners():
        if port in ports and (address == wanted or 0 in (int(address), int(wanted))):
            found.setdefault(port, set()).add(listener)
    return found
