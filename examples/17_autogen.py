"""Shows: an AutoGen agent whose code runs in a kernel.

Needs: kernelproto[ipykernel] autogen-agentchat
Run:   python examples/17_autogen.py
"""
# pyright: basic, reportMissingImports=false
# mypy: ignore-errors

import asyncio
import sys

from kernelproto import KernelProtoError, start_kernel

try:
    from autogen_agentchat.agents import ApprovalResponse, CodeExecutorAgent
    from autogen_agentchat.messages import TextMessage
    from autogen_core import CancellationToken
    from autogen_core.code_executor import CodeExecutor, CodeResult
except ImportError as error:
    print(f"skipped: {error.name} is not installed (40 MB): pip install autogen-agentchat")
    sys.exit()


class KernelExecutor(CodeExecutor):
    """Runs code blocks in one kernel, which keeps the variables."""

    def __init__(self, kernel_type="pyimport/kernel", timeout=60, **options):
        self.kernel_type, self.timeout, self.options = kernel_type, timeout, options

    async def start(self):
        self.kernel = await start_kernel(self.kernel_type, **self.options)

    async def stop(self):
        await self.kernel.shutdown()

    async def restart(self):
        await self.kernel.restart()

    async def execute_code_blocks(self, code_blocks, cancellation_token):
        output = ""
        for block in code_blocks:
            task = asyncio.ensure_future(self._run(block.code))
            cancellation_token.link_future(task)  # cancelling it interrupts the code
            succeeded, text = await task
            output += text
            if not succeeded:
                return CodeResult(1, output)
        return CodeResult(0, output)

    async def _run(self, code):
        execution = self.kernel.execute(
            code, timeout=self.timeout, on_timeout="restart", interrupt_on_cancel=True
        )
        try:
            result = await execution
        except KernelProtoError as error:  # the code took too long, or the kernel died
            return False, str(error)
        if result.error is not None:
            return False, f"{result.stdout}{result.error.ename}: {result.error.evalue}"
        return True, result.stdout + (result.text or "")


def approve(request):
    return ApprovalResponse(approved=True, reason="the code of this example is harmless")


async def main():
    # Do not trust the code? KernelExecutor("fork/kernel", launch_params={"sandbox": {}}) on Linux.
    async with KernelExecutor() as executor:
        agent = CodeExecutorAgent("coder", executor, approval_func=approve)
        for code in ("x = 6", "x * 7", "x / 0", "while True: pass"):
            message = TextMessage(content=f"```python\n{code}\n```", source="user")
            token = CancellationToken()
            asyncio.get_running_loop().call_later(3, token.cancel)
            try:
                response = await agent.on_messages([message], token)
                print(f"{code!r} -> {response.chat_message.to_text()}")
            except asyncio.CancelledError:
                print(f"{code!r} -> cancelled after 3 s")
        print((await executor.kernel.execute("x")).text)


asyncio.run(main())
