"""``kernelproto serve``: the server, with all of its options."""

from __future__ import annotations

from collections.abc import Sequence

from kernelproto.cli.extras import need


def run_server(arguments: Sequence[str]) -> int:
    """Serve kernels until SIGINT or SIGTERM; return the exit status.

    Args:
        arguments: the options of ``python -m kernelproto.server``.

    Raises:
        CliError: the extra ``server`` is not installed.
    """
    need("server")
    from kernelproto.server.program.serve import main

    return main(arguments, prog="kernelproto serve")
