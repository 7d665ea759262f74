"""Shows: a smolagents agent whose code runs in a kernel, and not in the agent's own process.

Needs: kernelproto[ipykernel] smolagents numpy
Run:   python examples/16_smolagents.py
"""
# pyright: basic, reportMissingImports=false
# mypy: ignore-errors

import sys

from kernelproto import KernelProtoError, run_kernel_blocking

try:
    import numpy  # noqa: F401 (the code that smolagents sends to the kernel imports it)
    from smolagents import ChatMessage, CodeAgent, Model, tool
    from smolagents.local_python_executor import CodeOutput
    from smolagents.models import MessageRole
    from smolagents.monitoring import AgentLogger, LogLevel
    from smolagents.remote_executors import RemotePythonExecutor
    from smolagents.utils import AgentError
except ImportError as error:
    print(f"skipped: {error.name} is not installed (140 MB): pip install smolagents numpy")
    sys.exit()


class KernelExecutor(RemotePythonExecutor):
    """Runs the code of an agent in a kernel; smolagents sends its tools and variables there."""

    def __init__(self, kernel, logger, timeout=60):
        super().__init__([], logger)
        self.kernel, self.timeout = kernel, timeout

    def run_code_raise_errors(self, code):
        try:
            result = self.kernel.execute(code, timeout=self.timeout, on_timeout="restart")
        except KernelProtoError as error:  # the code took too long, or the kernel died
            raise AgentError(str(error), self.logger) from error
        if result.error is None:
            return CodeOutput(result.text, result.stdout, is_final_answer=False)
        if result.error.ename == self.FINAL_ANSWER_EXCEPTION:
            answer = self._deserialize_final_answer(result.error.evalue)
            return CodeOutput(answer, result.stdout, is_final_answer=True)
        fault = f"{result.error.ename}: {result.error.evalue}"
        raise AgentError(f"{result.stdout}\n{fault}", self.logger)


class Script(Model):
    """Stands in for a model: its steps are written down here."""

    steps = iter(("numbers = [square(n) for n in range(4)]", "final_answer(sum(numbers))"))

    def generate(self, messages, **options):
        return ChatMessage(MessageRole.ASSISTANT, f"<code>\n{next(self.steps)}\n</code>")


@tool
def square(number: int) -> int:
    """Return the square of a number.

    Args:
        number: the number.
    """
    return number * number


# Do not trust the code? launch_params={"sandbox": {}}, with "fork/kernel" on Linux.
with run_kernel_blocking("pyimport/kernel") as kernel:
    executor = KernelExecutor(kernel, AgentLogger(LogLevel.ERROR))
    agent = CodeAgent([square], Script(), executor=executor, verbosity_level=LogLevel.ERROR)
    print("the answer:", agent.run("What is the sum of the squares of 0 to 3?"))
    print("in the kernel:", kernel.execute("numbers").text)
