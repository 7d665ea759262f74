"""Shows: restarting a kernel on request, and automatically when it dies.

Needs: kernelproto[ipykernel]
Run:   python examples/11_restarts.py
"""

import anyio

from kernelproto import Died, Failed, KernelRestarted, Restarted, RestartPolicy, run_kernel
from kernelproto.supervise import KernelEvents


async def report(events: KernelEvents) -> None:
    async for event in events:
        match event:
            case Died(returncode=returncode):
                print("event: it died with", returncode)
            case Restarted(auto=auto, attempt=attempt):
                print("event: restarted", f"by itself, attempt {attempt}" if auto else "by hand")
            case Failed(attempts=attempts):
                print("event: given up after", attempts)
            case _:  # a kernel on another machine may be unreachable for a while
                pass


async def main() -> None:
    policy = RestartPolicy(limit=3, time_to_dead=3.0)
    async with (
        anyio.create_task_group() as tasks,
        run_kernel("pyimport/kernel", restart=policy) as kernel,
    ):
        tasks.start_soon(report, kernel.events())  # ends with the kernel

        await kernel.execute("x = 1")
        await kernel.restart()
        result = await kernel.execute("x")
        print("after a restart:", result.error.evalue if result.error else result.text)

        try:
            await kernel.execute("import os; os._exit(1)")
        except KernelRestarted as died:
            print("this execution is lost:", died)
        print("and this one has waited for the new process:", (await kernel.execute("6 * 7")).text)


anyio.run(main)
