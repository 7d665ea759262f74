"""Shows: changing a widget through its comm, and reading the output of its callback.

Needs: kernelproto[ipykernel,trio], ipywidgets
Run:   python examples/07_widget.py
"""

import anyio

from kernelproto import run_kernel

SLIDER = """
import ipywidgets
slider = ipywidgets.IntSlider(value=7, max=100)
slider.observe(lambda change: print("moved to", change["new"]), names="value")
slider.comm.comm_id
"""


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel, kernel.messages() as messages:
        comm_id = str((await kernel.execute(SLIDER)).text).strip("'")
        slider = kernel.comms.attach(comm_id, "jupyter.widget")

        await slider.send({"method": "update", "state": {"value": 42}, "buffer_paths": []})

        # The output of a callback belongs to no execution. Observers of iopub receive it.
        async for message, _channel in messages:
            if message.msg_type == "stream":
                print("the callback says:", message.content.text.rstrip())
                break
        print("slider.value is", (await kernel.execute("slider.value")).text)


for backend in ("asyncio", "trio"):
    print(f"--- {backend}")
    anyio.run(main, backend=backend)
