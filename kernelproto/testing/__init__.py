"""For tests: a kernel without a process, and checks for kernel managers and providers of your own.

Code that talks to a kernel is tested against a FakeKernel. The client is a real one::

    from kernelproto.testing import FakeKernel

    async def test_answer():
        async with FakeKernel() as fake:
            fake.on_execute("6 * 7", result="42")
            async with fake.connect() as client:
                assert (await client.execute("6 * 7")).text == "42"

Left to itself it does what a good kernel would. All else is said in keywords, or by an async
function that gets an Exchange, for code or for any other request::

    async def greet(exchange):
        name = await exchange.input("who? ")
        exchange.stream(f"hello {name}")

    fake.on_execute(lambda code: code.startswith("greet"), greet)
    fake.on("complete_request", CompleteReply(matches=["print"]))

What it received is in ``fake.received`` and ``fake.contents(ExecuteRequest)``, and
``await fake.wait_for("execute_request")`` waits for it. To see how a program bears misfortune::

    fake.faults.drop("execute_reply")                   # lost, see Faults for what else there is
    reply = fake.faults.hold("execute_reply")           # late: until reply.remove()
    fake.deaf.add("control")                            # not listening
    fake.die()                                          # in the middle of everything

A provider or manager of your own is held against all that the Protocols of
``kernelproto.interfaces`` promise::

    from kernelproto.testing import check_kernel_manager, check_kernel_provider

    async def test_my_provider():
        await check_kernel_provider(MyProvider())

All of it runs on asyncio and Trio, under any test framework.
"""

from kernelproto.testing.exchange import CodeError, Exchange
from kernelproto.testing.fake_kernel import FakeKernel, Received
from kernelproto.testing.fake_process import FakeManager, FakeProvider
from kernelproto.testing.faults import Fault, Faults, Hold
from kernelproto.testing.manager_checks import check_kernel_manager
from kernelproto.testing.provider_checks import PYTHON, Snippets, check_kernel_provider

__all__ = [
    "PYTHON",
    "CodeError",
    "Exchange",
    "FakeKernel",
    "FakeManager",
    "FakeProvider",
    "Fault",
    "Faults",
    "Hold",
    "Received",
    "Snippets",
    "check_kernel_manager",
    "check_kernel_provider",
]
