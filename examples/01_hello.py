"""Shows: starting a kernel, reading its output as it arrives, printing a result.

Needs: kernelproto[ipykernel]
Run:   python examples/01_hello.py
"""

import anyio

from kernelproto import Stream, run_kernel

COUNTDOWN = """
import time

for n in (3, 2, 1):
    print(n, end=" ... ", flush=True)
    time.sleep(0.5)
print("go!")
"""


async def main() -> None:
    print("Starting a kernel.")
    async with run_kernel("pyimport/kernel") as kernel:
        async for output in kernel.execute(COUNTDOWN):  # iterate for each output
            if isinstance(output, Stream):
                print(output.text, end="", flush=True)

        result = await kernel.execute("6 * 7")  # await for the whole result
        print("6 * 7 =", result.text)
    print("The kernel is gone.")


anyio.run(main)
