"""The server over kernels that are no processes, with the client of the package ``mcp``."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.types import EmbeddedResource, ImageContent, TextContent

from kernelproto import KernelFinder, NoSuchKernel
from kernelproto.mcp.limits import Limits
from kernelproto.mcp.program import open_server
from kernelproto.testing import Exchange, FakeKernel, FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking", "no_leaks")]

GUARD_SECONDS = 60
PIXEL = base64.b64encode(b"\x89PNG").decode()


class Tools:
    """Calls the tools, and returns their text."""

    def __init__(self, client: Client, kernels: list[FakeKernel]) -> None:
        self.client = client
        self.kernels = kernels
        self.progress: list[str | None] = []
        self.reported = anyio.Event()

    async def __call__(self, tool: str, **arguments) -> str:
        result = await self.result(tool, **arguments)
        assert not result.is_error, result
        return self.text(result)

    async def failure(self, tool: str, **arguments) -> str:
        result = await self.result(tool, **arguments)
        assert result.is_error, result
        return self.text(result)

    async def result(self, tool: str, **arguments):
        return await self.client.call_tool(tool, arguments, progress_callback=self._report)

    async def run(self, code: str, **arguments) -> str:
        return await self("run_code", code=code, **arguments)

    @staticmethod
    def text(result) -> str:
        assert isinstance(result.content[0], TextContent)
        return result.content[0].text

    async def _report(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append(message)
        self.reported.set()


def prepare(fake: FakeKernel) -> None:
    counter = iter(range(1000))

    async def count(exchange: Exchange) -> None:
        exchange.result(str(next(counter)))

    async def wait(exchange: Exchange) -> None:
        exchange.stream("waiting\n")
        await anyio.sleep_forever()

    async def ignore(exchange: Exchange) -> None:
        exchange.stream("deaf\n")
        with anyio.CancelScope(shield=True):
            await fake.wait()

    async def say(exchange: Exchange) -> None:
        exchange.stream(exchange.code.removeprefix("say "))

    async def show(exchange: Exchange) -> None:
        exchange.display({"text/plain": "<Figure>", "image/png": PIXEL})
        exchange.result({"text/plain": "a  b", "text/html": "<table>"})

    async def die(exchange: Exchange) -> None:
        fake.die(-9)
        await anyio.sleep_forever()

    async def flood(exchange: Exchange) -> None:
        for _ in range(20):
            exchange.stream("0123456789")
        exchange.display({"text/html": "<p>" * 10})
        await anyio.sleep_forever()

    fake.on_execute("count", count)
    fake.on_execute("flood", flood)
    fake.on_execute("wait", wait)
    fake.on_execute("ignore", ignore)
    fake.on_execute("show", show)
    fake.on_execute("die", die)
    fake.on_execute(lambda code: code.startswith("say "), say)


Opened = Callable[..., AbstractAsyncContextManager[Tools]]


@pytest.fixture
def tools_of(tmp_path: Path) -> Opened:
    """Give a function that opens a server with some limits, and a client of it."""

    @asynccontextmanager
    async def tools_of(*, root: str | None = None, **limits) -> AsyncGenerator[Tools]:
        with anyio.fail_after(GUARD_SECONDS):
            async with (
                FakeProvider(prepare) as provider,
                open_server(
                    ["fake/kernel"],
                    root,
                    Limits(**limits),
                    finder=KernelFinder([provider]),
                    progress_seconds=0.01,
                ) as server,
                Client(server.mcp_server(), mode="legacy") as client,
            ):
                yield Tools(client, provider.kernels)

    return tools_of


async def test_variables_stay_in_their_conversation(tools_of: Opened) -> None:
    async with tools_of() as tools:
        assert await tools.run("count") == "0"
        assert await tools.run("count") == "1"
        assert await tools.run("count", conversation="other") == "0"
        assert await tools("reset") == "The variables of conversation default are deleted."
        assert await tools.run("count") == "0"
        assert await tools.run("count", conversation="other") == "1"


async def test_tools_describe_the_limits_of_the_server(tools_of: Opened) -> None:
    async with tools_of(timeout=5, max_timeout=7) as tools:
        listed = {tool.name: tool for tool in (await tools.client.list_tools()).tools}
        templates = (await tools.client.list_resource_templates()).resource_templates
    assert set(listed) == {"run_code", "interrupt", "reset", "upload", "download", "list_files"}
    timeout = listed["run_code"].input_schema["properties"]["timeout"]
    assert (timeout["default"], timeout["maximum"]) == (5, 7)
    assert listed["run_code"].description.startswith("Run code and return its outputs. Variables")
    assert [template.uri_template for template in templates] == ["file://{conversation}/{name}"]


@pytest.mark.parametrize(
    ("tool", "arguments", "fault"),
    [
        ("run_code", {}, "missing required field `code`"),
        ("run_code", {"code": "count", "kode": ""}, "unknown field `kode`"),
        ("run_code", {"code": "count", "timeout": "soon"}, "Expected `float`"),
        ("run_code", {"code": "count", "timeout": 0}, "timeout must be more than 0"),
        ("run_code", {"code": "count", "timeout": 1e9}, "at most 3600 s"),
        ("run_code", {"code": "count", "timeout": "nan"}, "timeout must be more than 0"),
        ("run_code", {"code": "count", "language": "cobol"}, "use one of"),
        ("run_code", {"code": "count", "conversation": "../up"}, "invalid arguments"),
        ("run_code", {"code": "count", "conversation": "localhost"}, "is not a name"),
        ("interrupt", {}, "there is no conversation 'default'"),
        ("download", {"name": "a"}, "there is no conversation 'default'"),
        ("upload", {"name": "../a", "content": ""}, 'must not contain ".."'),
        ("upload", {"name": "a", "content": "?", "encoding": "base64"}, "is not base64"),
        ("download", {"name": "a", "length": 10**9}, "length must be 1 to"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_invalid_call_is_explained(tools_of: Opened, tool, arguments, fault) -> None:
    async with tools_of() as tools:
        assert fault in await tools.failure(tool, **arguments)
        assert tools.kernels == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_unknown_tool_and_unknown_file_are_errors_of_the_protocol(tools_of: Opened) -> None:
    async with tools_of() as tools:
        with pytest.raises(MCPError, match="unknown tool: fly"):
            await tools.result("fly")
        with pytest.raises(MCPError, match="there is no conversation"):
            await tools.client.read_resource("file://default/a")


async def test_images_and_tables_come_besides_the_text(tools_of: Opened) -> None:
    async with tools_of() as tools:
        text, image, table = (await tools.result("run_code", code="show")).content
        assert text.text == "[image 1]\na  b\n[table or page 2]"
        assert isinstance(image, ImageContent)
        assert (image.mime_type, image.data) == ("image/png", PIXEL)
        assert isinstance(table, EmbeddedResource)
        read = await tools.client.read_resource(table.resource.uri)
        assert read.contents[0].text == table.resource.text == "<table>"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_large_outputs_are_saved_as_files(tools_of: Opened) -> None:
    async with tools_of(text=10, image_bytes=3, html=3, saved_outputs=2) as tools:
        text = await tools.run("say 0123456789ABCDEF")
        assert text.startswith("01234\n[... 6 of 16 characters are left out here. The whole output")
        assert text.endswith('name="outputs/1-text.txt", offset=5).]\nBCDEF')
        assert await tools("download", name="outputs/1-text.txt", offset=5) == "56789ABCDE"
        assert "[output 1 (image/png) is the file outputs/2-1.png]" in await tools.run("show")
        listed = await tools("list_files")
        assert [line.split()[1] for line in listed.splitlines()] == [
            "outputs/2-1.png",
            "outputs/2-2.html",
        ]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_images_and_tables_that_are_too_large_together_are_saved(tools_of: Opened) -> None:
    async with tools_of(media_bytes=len(PIXEL) + len('"<table>"') - 1) as tools:
        result = await tools.result("run_code", code="show")
        assert [block.type for block in result.content] == ["text", "image"]
        assert "[output 2 (text/html) is the file outputs/1-2.html]" in tools.text(result)


async def test_files_go_in_and_out(tools_of: Opened) -> None:
    data = base64.b64encode(bytes(range(256))).decode()
    async with tools_of() as tools:
        assert await tools("upload", name="a/ü.txt", content="grüße") == "Wrote 7 bytes to a/ü.txt."
        await tools("upload", name="b.bin", content=data, encoding="base64")
        assert await tools("download", name="a/ü.txt") == "grüße"
        part = await tools.result("download", name="a/ü.txt", length=3)
        assert [block.text for block in part.content] == [
            "gr",
            "[bytes 0 to 2 of 7 of a/ü.txt; the next part has offset=2]",
        ]
        binary = (await tools.result("download", name="b.bin")).content[0]
        assert binary.resource.blob == data
        (resource, _) = (await tools.client.list_resources()).resources
        read = await tools.client.read_resource(resource.uri)
        assert (resource.uri, read.contents[0].text) == ("file://default/a/%C3%BC.txt", "grüße")
        assert await tools("list_files") == "           7  a/ü.txt\n         256  b.bin"
        assert "does not exist" in await tools.failure("download", name="b")
        await tools("reset", files=True)
        assert "there is no conversation" in await tools.failure("list_files")


async def test_timeout_keeps_the_variables(tools_of: Opened) -> None:
    async with tools_of() as tools:
        await tools.run("count")
        text = await tools.failure("run_code", code="wait", timeout=0.1)
        assert text.startswith("waiting\n")
        assert "ran for more than 0.1 s and was interrupted. The variables are kept" in text
        assert await tools.run("count") == "1"


async def test_cancelled_call_is_interrupted_and_the_next_is_answered(tools_of: Opened) -> None:
    async with tools_of() as tools, anyio.create_task_group() as tasks:
        await tools.run("count")
        tasks.start_soon(tools.run, "wait")
        while not any("1 outputs so far: waiting" in text for text in tools.progress):
            await tools.reported.wait()
            tools.reported = anyio.Event()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            assert await tools.run("count") == "1"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_timeout_that_costs_the_kernel_says_so(tools_of: Opened) -> None:
    async with tools_of() as tools:
        await tools.run("count")
        text = await tools.failure("run_code", code="ignore", timeout=0.1)
        assert text.endswith("the kernel was restarted: all variables are lost, the files are kept")
        assert await tools.run("count") == "0"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_code_that_goes_on_costs_the_kernel(tools_of: Opened) -> None:
    async with tools_of() as tools:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tools.run, "ignore")
                while not any("deaf" in text for text in tools.progress):
                    await tools.reported.wait()
                    tools.reported = anyio.Event()
                scope.cancel()
        text = await tools.run("count")
        assert text.startswith("[note: the code of a cancelled call ignored its interrupt, so the")
        assert text.endswith("\n0")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("limit", [199, 229])
async def test_code_that_floods_its_outputs_is_interrupted(tools_of: Opened, limit: int) -> None:
    async with tools_of(output_bytes=limit) as tools:
        await tools.run("count")
        text = await tools.failure("run_code", code="flood")
        assert text.startswith("0123456789")
        assert f"because its outputs exceed {limit} bytes; the variables are kept" in text
        assert await tools.run("count") == "1"


async def test_interrupt_ends_the_running_call(tools_of: Opened) -> None:
    async with tools_of() as tools, anyio.create_task_group() as tasks:
        await tools.run("count")
        assert await tools("interrupt") == "No code runs."
        failures: list[str] = []

        async def wait() -> None:
            failures.append(await tools.failure("run_code", code="wait"))

        tasks.start_soon(wait)
        await tools.reported.wait()
        while not failures:
            await tools("interrupt")
        assert failures[0].startswith("waiting\nKeyboardInterrupt")


async def test_death_of_the_kernel_is_explained(tools_of: Opened) -> None:
    async with tools_of() as tools:
        await tools.run("count")
        text = await tools.failure("run_code", code="die")
        assert "the kernel died" in text
        assert text.endswith("All variables are lost, the files are kept")
        assert await tools.run("count") == "0"


async def test_lost_kernel_is_noted_in_the_next_result(tools_of: Opened) -> None:
    async with tools_of(kernels=1) as tools:
        await tools.run("count")
        await tools.run("count", conversation="other")  # evicts the idle kernel
        assert await tools.run("count") == (
            "[note: the kernel was evicted: it was idle and another kernel needed its slot: all "
            "variables are lost, the files are kept]\n0"
        )
        assert await tools.run("count") == "1"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_reset_ends_the_running_call(tools_of: Opened) -> None:
    async with tools_of() as tools, anyio.create_task_group() as tasks:
        failures: list[str] = []

        async def wait() -> None:
            failures.append(await tools.failure("run_code", code="wait"))

        tasks.start_soon(wait)
        while not any("waiting" in text and "outputs" in text for text in tools.progress):
            await tools.reported.wait()
            tools.reported = anyio.Event()
        await tools("reset", files=True)
    assert failures[0].startswith("waiting\n")
    assert failures[0].endswith("\nthe conversation was reset while this code ran")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_conversations_are_limited_and_expire(tools_of: Opened) -> None:
    async with tools_of(conversations=1, expires=0.2) as tools:
        await tools("upload", name="a", content="")
        text = await tools.failure("run_code", code="count", conversation="other")
        assert "there are 1 conversations, as many as allowed" in text
        while (await tools.result("run_code", code="count", conversation="other")).is_error:
            await anyio.lowlevel.checkpoint()
        text = await tools.failure("list_files")
        assert "there is no conversation 'default'" in text
        while (await tools.result("upload", name="b", content="")).is_error:
            await anyio.lowlevel.checkpoint()
        text = await tools.run("count")
        assert text.startswith("[note: the conversation had no call for 0.2 s and was ended: its")
        assert await tools("list_files") == "           0  b"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_busy_kernels_and_waiting_calls_are_limited(tools_of: Opened) -> None:
    async with tools_of(kernels=1, waiting_calls=1) as tools, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(partial(tools.result, "run_code", code="wait"))
        while not any("waiting for earlier calls" in (text or "") for text in tools.progress):
            await tools.reported.wait()
            tools.reported = anyio.Event()
        text = await tools.failure("run_code", code="count")
        assert text.startswith("1 calls wait for conversation 'default'")
        text = await tools.failure("run_code", code="count", conversation="other")
        assert text.startswith("all 1 kernels run code now")
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_files_in_a_given_root_stay(tools_of: Opened, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    async with tools_of(root=root) as tools:
        await tools("upload", name="a.txt", content="kept", conversation="mine")
    assert (tmp_path / "root" / "mine" / "a.txt").read_text() == "kept"
    async with tools_of(root=root) as tools:
        assert await tools("download", name="a.txt", conversation="mine") == "kept"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_unknown_kernel_type_is_refused_at_the_start() -> None:
    async with FakeProvider(prepare) as provider:
        with pytest.raises(NoSuchKernel, match="fake/other"):
            async with open_server(["fake/other"], None, Limits(), finder=KernelFinder([provider])):
                pass
