"""Shows: one program on Trio, on asyncio, and, if installed, on uvloop.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/03_trio.py
"""

import asyncio
from importlib.util import find_spec

import anyio
import trio

from kernelproto import run_kernel


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        result = await kernel.execute("6 * 7")
        print(result.text)


print("Trio:", end=" ", flush=True)
trio.run(main)

print("asyncio:", end=" ", flush=True)
asyncio.run(main())

if find_spec("uvloop"):
    print("uvloop:", end=" ", flush=True)
    anyio.run(main, backend_options={"use_uvloop": True})
