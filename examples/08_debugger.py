"""Shows: the debugger: set a breakpoint, stop there, read a variable, continue.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/08_debugger.py
"""

from typing import Any

import anyio

from kernelproto import Kernel, run_kernel

CODE = """def double(number):
    result = number * 2
    return result
double(21)
"""


async def ask(kernel: Kernel, command: str, **arguments: Any) -> dict[str, Any]:
    response = await kernel.debug(command, arguments)
    assert response["success"], response
    return dict(response.get("body") or {})


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel, kernel.debug_events() as events:
        await ask(kernel, "initialize", clientID="example", adapterID="", linesStartAt1=True)
        await ask(kernel, "attach")
        cell = await ask(kernel, "dumpCell", code=CODE)
        source = {"path": cell["sourcePath"]}
        await ask(kernel, "setBreakpoints", source=source, breakpoints=[{"line": 3}])
        await ask(kernel, "configurationDone")

        async with kernel.execute(CODE) as execution:
            while (event := await anext(events))["event"] != "stopped":
                pass
            thread = event["body"]["threadId"]
            frames = (await ask(kernel, "stackTrace", threadId=thread))["stackFrames"]
            print("stopped in", frames[0]["name"], "at line", frames[0]["line"])
            scopes = (await ask(kernel, "scopes", frameId=frames[0]["id"]))["scopes"]
            reference = scopes[0]["variablesReference"]
            variables = await ask(kernel, "variables", variablesReference=reference)
            for variable in variables["variables"]:
                if variable["name"] in ("number", "result"):
                    print("  ", variable["name"], "=", variable["value"])
            await ask(kernel, "continue", threadId=thread)
            print("the result is", (await execution).text)


for backend in ("asyncio", "trio"):
    print(f"--- {backend}")
    anyio.run(main, backend=backend)
