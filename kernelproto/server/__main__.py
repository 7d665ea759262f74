"""``python -m kernelproto.server``."""

from __future__ import annotations

import sys

from kernelproto.extras import fault


def run() -> int:
    """Run the program, or name the missing packages; return the exit status."""
    if (text := fault("server")) is not None:
        print(f"error: {text}", file=sys.stderr)
        return 1
    from kernelproto.server.program.serve import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
