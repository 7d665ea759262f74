"""Shows: two subshells of one kernel that run code in parallel.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/09_subshells.py
"""

import anyio

from kernelproto import run_kernel

# Each piece of code waits for the other, so they must run in parallel.
MEET = "{mine}.set(); print({other}.wait(timeout=30))"


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        await kernel.execute("import threading; a, b = threading.Event(), threading.Event()")
        subshell = (await kernel.create_subshell()).subshell_id
        print("subshells:", len((await kernel.list_subshells()).subshell_id))

        async def meet(mine: str, other: str, subshell_id: str | None) -> None:
            code = MEET.format(mine=mine, other=other)
            result = await kernel.execute(code, subshell_id=subshell_id)
            print(mine, "has met", other + ":", result.stdout.strip())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meet, "a", "b", None)
            tasks.start_soon(meet, "b", "a", subshell)

        await kernel.delete_subshell(subshell)
        print("subshells:", len((await kernel.list_subshells()).subshell_id))


for backend in ("asyncio", "trio"):
    print(f"--- {backend}")
    anyio.run(main, backend=backend)
