"""Shows: a second client of a running kernel, which observes the first one.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/05_two_clients.py
"""

import anyio

from kernelproto import connect_kernel, run_kernel


async def main() -> None:
    async with (
        run_kernel("pyimport/kernel") as kernel,
        connect_kernel(kernel.connection_info) as watcher,
        watcher.messages(["iopub"]) as messages,
    ):
        await kernel.execute("print('from the first client')")

        async for message, _channel in messages:
            print("watched:", message.msg_type)
            if message.msg_type == "stream":
                print("        ", message.content.text.rstrip())
                break

        # Each client gets its own replies and outputs. They share the kernel's variables.
        await kernel.execute("shared = 42")
        print("the watcher sees", (await watcher.execute("shared")).text)
    # Leaving the block of connect_kernel does not end the kernel; leaving that of run_kernel does.


for backend in ("asyncio", "trio"):
    print(f"--- {backend}")
    anyio.run(main, backend=backend)
