"""Test tools: a kernel without a process, and contract checks for kernel managers and providers.

Test code that uses a kernel against a FakeKernel, with a real client::

    from kernelproto.testing import FakeKernel

    async def test_answer():
        async with FakeKernel() as fake:
            fake.on_execute("6 * 7", result="42")
            async with fake.connect() as client:
                assert (await client.execute("6 * 7")).text == "42"

By default the fake kernel behaves like a correct kernel. Script the kernel with keywords, or with
an async function that takes an Exchange, for code or for any other request::

    async def greet(exchange):
        name = await exchange.input("who? ")
        exchange.stream(f"hello {name}")

    fake.on_execute(lambda code: code.startswith("greet"), greet)
    fake.on("complete_request", CompleteReply(matches=["print"]))

Received messages are in ``fake.received`` and ``fake.contents(ExecuteRequest)``;
``await fake.wait_for("execute_request")`` waits for one. To test how a program handles faults::

    fake.faults.drop("execute_reply")                   # lost; see Faults for other faults
    reply = fake.faults.hold("execute_reply")           # late: until reply.remove()
    fake.deaf.add("control")                            # ignores requests on control
    fake.die()                                          # dies immediately

Check your own provider or manager against the contract of the Protocols in
``kernelproto.interfaces``::

    from kernelproto.testing import check_kernel_manager, check_kernel_provider

    async def test_my_provider():
        await check_kernel_provider(MyProvider())

Everything runs on asyncio and Trio, under any test framework.
"""

from kernelproto.testing.adoption_checks import check_adoption
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
    "check_adoption",
    "check_kernel_manager",
    "check_kernel_provider",
]
