"""Whether the machine of a kernel answers, without the batch system."""

from __future__ import annotations

import anyio

CONNECT_SECONDS = 2.0


async def silence(address: str, port: int) -> str | None:
    """Return why a machine does not answer; None if the machine answers.

    A machine that refuses the connection answers, too: only the kernel does not listen.

    Args:
        address: the address or host name of the machine.
        port: a port of the kernel.
    """
    problem = f"no connection after {CONNECT_SECONDS:g} s"
    try:
        with anyio.move_on_after(CONNECT_SECONDS):
            stream = await anyio.connect_tcp(address, port)
            await anyio.aclose_forcefully(stream)
            return None
    except (OSError, UnicodeError) as error:
        if isinstance(error.__cause__, (ConnectionRefusedError, ConnectionResetError)):
            return None
        problem = str(error.__cause__ or error)
    return f"its machine {address!r} does not answer: {problem}"
