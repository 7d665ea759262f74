"""Shows: answering input() and getpass(), and interrupting code that waits or runs too long.

Needs: kernelproto[ipykernel,trio]
Run:   python examples/06_answer_input.py
"""

import anyio

from kernelproto import ExecutionTimeout, InputRequest, run_kernel

SIGN_IN = """
import getpass
user = input("user: ")
password = getpass.getpass("password: ")
f"{user} has a password of {len(password)} characters"
"""


async def answer(question: InputRequest) -> str:
    print(f"the kernel asks {question.prompt!r}", "(hidden)" if question.password else "")
    return "secret" if question.password else "ada"


async def main() -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        print((await kernel.execute(SIGN_IN, on_input=answer)).text)

        refused = await kernel.execute("input()")  # without on_input, input() raises in the kernel
        print("without on_input:", refused.error and refused.error.ename)

        try:
            await kernel.execute("while True: pass", timeout=0.5)
        except ExecutionTimeout as late:
            print("after half a second:", late.ename)

        with anyio.move_on_after(0.5):  # give up, and interrupt the code
            await kernel.execute("while True: pass", interrupt_on_cancel=True)
        print("still there:", (await kernel.execute("6 * 7")).text)


for backend in ("asyncio", "trio"):
    print(f"--- {backend}")
    anyio.run(main, backend=backend)
