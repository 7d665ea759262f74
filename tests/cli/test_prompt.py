from __future__ import annotations

import pytest
from prompt_toolkit.completion import CompleteEvent, Completion
from prompt_toolkit.document import Document

from kernelproto.cli import prompt
from kernelproto.cli.prompt import earlier_code
from kernelproto.client import KernelClient
from kernelproto.testing import CodeError, Exchange, FakeKernel
from kernelproto.wire.content import CompleteReply, HistoryReply

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def refuse(exchange: Exchange) -> None:
    raise CodeError("NotImplementedError", "not here")


async def completions(client: KernelClient, code: str) -> list[Completion]:
    completer = prompt._KernelCompleter(client)
    document = Document(code, len(code))
    found = completer.get_completions_async(document, CompleteEvent(completion_requested=True))
    return [completion async for completion in found]


async def test_completions_replace_the_matched_text_and_have_types() -> None:
    types = [{"text": "print", "type": "function"}, {"text": "x"}]
    reply = CompleteReply(
        matches=["print", "x", "y"],
        cursor_start=4,
        cursor_end=6,
        metadata={"_jupyter_types_experimental": types},
    )
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("complete_request", reply)
        found = await completions(client, "1 + pr")
    assert [(one.text, one.start_position) for one in found] == [
        ("print", -2),
        ("x", -2),
        ("y", -2),
    ]
    assert [one.display_meta_text for one in found] == ["function", "", ""]


@pytest.mark.parametrize("metadata", [{"_jupyter_types_experimental": 5}, {}])
async def test_completions_without_valid_types(metadata: dict[str, object]) -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("complete_request", CompleteReply(matches=["a"], metadata=metadata))
        (found,) = await completions(client, "")
    assert found.display_meta_text == ""


async def test_kernel_that_does_not_answer_has_no_completions(monkeypatch) -> None:
    monkeypatch.setattr(prompt, "_COMPLETION_SECONDS", 0.01)
    async with FakeKernel() as fake, fake.connect() as client:
        fake.deaf.add("shell")
        assert await completions(client, "a") == []


async def test_history_is_code_oldest_first() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("history_request", HistoryReply(history=[(1, 1, "a"), (1, 2, ("b", None))]))
        assert await earlier_code(client) == ["a"]


async def test_history_begins_with_the_code_typed_here() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("history_request", HistoryReply(history=[(1, 1, "a"), (1, 2, "b")]))
        history = prompt._KernelHistory(client)
        history.append_string("c")
        for _ in range(2):  # the kernel is asked once
            assert [code async for code in history.load()] == ["c", "b", "a"]
        history.append_string("d")
        assert history.get_strings() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("%%timeit\n1", "%%timeit\n1"),
        ("%%timeit\n1\n", "%%timeit\n1\n\n"),
        ("if 1:\n    2\n    ", "if 1:\n    2\n    \n"),
    ],
)
async def test_blank_line_has_a_newline_for_the_kernel(code: str, asked: str) -> None:
    seen: list[str] = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange.code)
        exchange.reply(status="complete")

    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("is_complete_request", note)
        assert (await prompt._Enter(client)._is_complete(code)).status == "complete"
    assert seen == [asked]


async def test_kernel_without_history(monkeypatch) -> None:
    monkeypatch.setattr(prompt, "_ANSWER_SECONDS", 0.01)
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on("history_request", refuse)
        assert await earlier_code(client) == []
        fake.deaf.add("shell")
        assert await earlier_code(client) == []
