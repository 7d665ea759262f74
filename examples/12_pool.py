"""Shows: a service on Trio for many users, each with their own kernel.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/12_pool.py
"""

import trio

from kernelproto import KernelPool, PoolFull


async def serve(pool: KernelPool, user: str, code: str) -> None:
    """Run a user's code in the user's kernel, which is started if the user has none."""
    try:
        async with pool.connection(user) as connection:  # not evicted while connected
            result = await connection.kernel.execute(code)
            print(f"{user}: {result.stdout.strip()}")
    except PoolFull as error:
        print(f"{user}: sorry, {error}")


async def main() -> None:
    # At most three kernels. The one that has been idle longest is evicted for the next user.
    async with KernelPool(max_kernels=3, idle_timeout=600, warm=1) as pool:
        async with trio.open_nursery() as nursery:
            for number, user in enumerate(("ada", "bob", "eve")):
                nursery.start_soon(serve, pool, user, f"x = {number}; print('x is', x)")
        await serve(pool, "ada", "print('x is still', x)")

        async with pool.connection("ada"), pool.connection("eve"):  # only bob's is idle
            await serve(pool, "kim", "print('x' in globals())")
        for kernel in pool.kernels():
            print(f"{kernel.user} has a {kernel.kernel_type}, which is {kernel.state}")
        await pool.release("kim")
        print("kernels:", dict(pool.counts))


trio.run(main)
