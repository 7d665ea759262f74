"""Shows: the requests of a frontend besides running code: completion, documentation, history.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/04_inspect_and_complete.py
"""

import anyio

from kernelproto import run_kernel


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        info = await kernel.kernel_info()
        print(info.implementation, info.language_info.version, info.supported_features)

        await kernel.execute("greeting = 'hello'")
        completion = await kernel.complete("greeting.sta")
        print("completes to:", completion.matches)

        inspection = await kernel.inspect("greeting")
        print("found:", inspection.found, "as", ", ".join(inspection.data))

        for code in ("for i in range(3):", "1 + 1", "1 +* 1"):
            print(f"{code!r} is", (await kernel.is_complete(code)).status)

        history = await kernel.history("tail", n=1)
        print("last input:", history.history[-1])

        result = await kernel.execute("1", user_expressions={"shout": "greeting.upper()"})
        print("user expression:", result.user_expressions["shout"]["data"]["text/plain"])


for backend in ("asyncio", "trio"):
    print(f"--- {backend}")
    anyio.run(main, backend=backend)
