from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from kernelproto.testing import CodeError, Exchange, FakeKernel
from kernelproto.wire import content
from kernelproto.wire.content import InputReply

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_handler_sends_any_message() -> None:
    async def talk(exchange: Exchange) -> None:
        assert exchange.code == "talk"
        exchange.stream("wrong")
        exchange.clear(wait=True)
        exchange.display("old", display_id="it", metadata={"a": 1})
        exchange.display("new", display_id="it", update=True)
        exchange.result("42", metadata={"b": 2})
        exchange.publish({"spoken": True}, "speech", buffers=[b"\0"])
        exchange.reply(content.ExecuteReply(user_expressions={"x": 1}))

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("talk", talk)
        result = await client.execute("talk")
    shown, value = result.outputs
    assert (shown.data, shown.display_id) == ({"text/plain": "new"}, "it")
    assert (value.data, value.metadata) == ({"text/plain": "42"}, {"b": 2})
    assert result.user_expressions == {"x": 1}


async def test_mapping_needs_a_msg_type() -> None:
    async with FakeKernel() as fake:
        with pytest.raises(TypeError, match="cannot be derived from a dict"):
            fake.publish({"spoken": True})


async def test_code_error_of_a_handler_is_an_error_reply() -> None:
    async def fail(exchange: Exchange) -> None:
        raise CodeError("ZeroDivisionError", "division by zero")

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("1 / 0", fail)
        fake.on("inspect_request", fail)
        result = await client.execute("1 / 0")
        assert result.error == result.outputs[0]
        assert result.error.ename == "ZeroDivisionError"
        assert (await client.inspect("x")).evalue == "division by zero"


async def test_input() -> None:
    async def greet(exchange: Exchange) -> None:
        name = await exchange.input("who? ")
        word = await exchange.input("password? ", password=True)
        exchange.stream(f"{name} {word}")

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("greet", greet)
        asked = []

        def answer(question) -> str:
            asked.append((question.prompt, question.password))
            return f"answer {len(asked)}"

        assert (await client.execute("greet", on_input=answer)).stdout == "answer 1 answer 2"
        assert asked == [("who? ", False), ("password? ", True)]
        assert [reply.value for reply in fake.contents(InputReply)] == ["answer 1", "answer 2"]
        assert (await client.execute("greet")).error.ename == "StdinNotImplementedError"


async def test_late_input_reply_is_ignored() -> None:
    async def ask(exchange: Exchange) -> None:
        exchange.stream(await exchange.input())

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("ask", ask)
        questions = []

        async def hesitate(question) -> str:
            questions.append(question)
            if len(questions) == 1:
                fake.interrupt()
                await anyio.sleep_forever()
            return "second"

        first = await client.execute("ask", on_input=hesitate)
        assert first.error.ename == "KeyboardInterrupt"
        assert (await client.execute("ask", on_input=hesitate)).stdout == "second"
