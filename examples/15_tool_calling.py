"""Shows: a language model that runs code through tool calls, without a framework.

Needs: kernelproto[ipykernel]
Run:   python examples/15_tool_calling.py
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from kernelproto import Kernel, KernelProtoError, run_kernel

TOOL = {
    "name": "run_code",
    "description": "Run Python code. Variables stay for the next call.",
    "input_schema": {
        "type": "object",
        "properties": {"code": {"type": "string"}},
        "required": ["code"],
    },
}


def script() -> Iterator[dict[str, Any]]:
    """Stand in for the API of a model, which gets the messages and TOOL, and returns a message."""
    for code in ("prices = [3, 5, 7]", "sum(price)", "sum(prices)", "while True: pass"):
        yield {"role": "assistant", "tool": "run_code", "arguments": json.dumps({"code": code})}
    yield {"role": "assistant", "text": "The sum is 15."}


async def run_code(kernel: Kernel, code: str) -> str:
    """Return the result for the model. It can correct an error, so an error is a result as well."""
    try:
        result = await kernel.execute(code, timeout=1, on_timeout="restart")
    except KernelProtoError as error:  # the code took too long, or the kernel died
        return f"{type(error).__name__}: {error}"
    if result.error is not None:
        return f"{result.stdout}{result.error.ename}: {result.error.evalue}"
    return result.stdout + (result.text or "")


async def main() -> None:
    model = script()
    messages: list[dict[str, Any]] = [{"role": "user", "text": "What is the sum of 3, 5 and 7?"}]
    # Do not trust the code? launch_params={"sandbox": {}}, with "fork/kernel" on Linux.
    async with run_kernel("pyimport/kernel") as kernel:
        while "tool" in (message := next(model)):
            code = json.loads(message["arguments"])["code"]
            output = await run_code(kernel, code)
            print(f"{code!r} -> {output!r}")
            messages += [message, {"role": "tool", "text": output}]
    print(message["text"], f"({len(messages)} messages)")


asyncio.run(main())
