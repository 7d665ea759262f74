"""Shows: distinguishing outputs, answering input(), interrupting code that takes too long.

Needs: kernelproto[ipykernel]
Run:   python examples/02_stream_outputs.py
"""

import anyio

from kernelproto import DisplayData, ErrorOutput, InputRequest, Kernel, Stream, run_kernel

OUTPUTS = """
import sys
from IPython.display import HTML, display

print("to standard output")
print("to standard error", file=sys.stderr)
display(HTML("<b>bold</b>"))
1 / 0
"""


async def show_outputs(kernel: Kernel) -> None:
    async for output in kernel.execute(OUTPUTS):
        match output:
            case Stream(name=name, text=text):
                print(f"{name}: {text.rstrip()}")
            case DisplayData(data=data):
                print("display:", ", ".join(data))  # its MIME types
            case ErrorOutput(ename=name, evalue=why):
                print(f"error: {name}: {why}")
            case _:
                pass


async def answer(request: InputRequest) -> str:
    print(f"the kernel asks: {request.prompt!r}")
    return "Ada"


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        await show_outputs(kernel)

        result = await kernel.execute("f\"Hello, {input('who? ')}!\"", on_input=answer)
        print(result.text)

        async with kernel.execute("while True: pass") as execution:  # entering starts it
            with anyio.move_on_after(1) as scope:
                await execution
            if scope.cancelled_caught:  # the wait is over, but the code still runs
                await kernel.interrupt()
            result = await execution
        print(result.status, result.error and result.error.ename)


anyio.run(main)
