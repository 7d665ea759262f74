"""Shows: a service for many users, each with a kernel of their own; it runs on Trio.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/12_pool.py
"""

import trio

from kernelproto import KernelPool, PoolFull


async def serve(pool: KernelPool, user: str, code: str) -> None:
    """Run the code of a user; what the user had before is there still, unless it was idle."""
    try:
        async with pool.connection(user) as connection:  # kept for as long as the user is here
            result = await connection.kernel.execute(code)
            print(f"{user}: {result.stdout.strip()}")
    except PoolFull as error:
        print(f"{user}: sorry, {error}")


async def main() -> None:
    # Room for three. Who has been idle longest gives way to who comes next.
    async with KernelPool(max_kernels=3, idle_timeout=600, warm=1) as pool:
        async with trio.open_nursery() as nursery:
            for number, user in enumerate(("ada", "bob", "eve")):
                nursery.start_soon(serve, pool, user, f"x = {number}; print('x is', x)")
        await serve(pool, "ada", "print('x is still', x)")

        async with pool.connection("ada"), pool.connection("eve"):  # bob is not here any more
            await serve(pool, "kim", "print('x' in globals())")
        for kernel in pool.kernels():
            print(f"{kernel.user} has a {kernel.kernel_type}, which is {kernel.state}")
        await pool.release("kim")
        print("kernels:", dict(pool.counts))


trio.run(main)
