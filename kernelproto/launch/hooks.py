"""The hooks that make the ipykernel of this interpreter faster; see programs/fast_ipykernel/.

This module is separate because only ``launch/`` starts processes, and the package does not import
ipykernel.
"""

from __future__ import annotations

import json
import sys
from typing import cast

import anyio

from kernelproto.launch.programs import ipykernel

# Loading ipykernel takes half a second on an idle machine.
_SECONDS = 60


async def find_hooks() -> dict[str, str | None]:
    """Return the reason why each hook is off with the installed ipykernel; None for those on.

    Raises:
        OSError: ipykernel cannot be loaded; the message has the end of the output.
        TimeoutError: ipykernel was not loaded within a minute.
    """
    command = [sys.executable, ipykernel.__file__, ipykernel.REPORT]
    with anyio.fail_after(_SECONDS):
        done = await anyio.run_process(command, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(f"cannot load ipykernel: {last}")
    return cast("dict[str, str | None]", json.loads(done.stdout))
