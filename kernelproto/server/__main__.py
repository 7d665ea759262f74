"""``python -m kernelproto.server``."""

from __future__ import annotations

import importlib.util
import sys

# The distributions of the extra, by what is imported of them.
_NEEDED = ("h11", "prometheus_client", "psutil", "starlette", "uvicorn", "websockets")


def run() -> int:
    """Run the program, or say what it lacks; return the exit status."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f'error: {", ".join(missing)} not found: pip install "kernelproto[server]"',
            file=sys.stderr,
        )
        return 1
    from kernelproto.server.program.serve import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
