"""The extension in a real jupyter_server, a program of its own."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

import kernelproto
from kernelproto.jupyter import server as extension
from tests.integration.clients.programs import GUARD_SECONDS, own_folders, serving

EXTENSION = "{'kernelproto.jupyter.server': True}"

pytestmark = pytest.mark.usefixtures("no_leaks")


class Server(NamedTuple):
    url: str

    def wait_until_it_listens(self) -> None:
        """Wait; jupyter_server logs its address before."""
        deadline = time.monotonic() + GUARD_SECONDS
        while True:
            try:
                self.fetch("GET", "status")
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def fetch(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "token t"},
        )
        with urllib.request.urlopen(request) as response:
            content = response.read()
        return json.loads(content) if content else None

    @asynccontextmanager
    async def connect(
        self, kernel_id: str, session: str = "a"
    ) -> AsyncGenerator[WebSocketClientConnection]:
        url = self.url.replace("http", "ws", 1)
        url += f"api/kernels/{kernel_id}/channels?session_id={session}"
        request = HTTPRequest(url, headers={"Authorization": "token t"})
        websocket = await websocket_connect(request)
        try:
            yield websocket
        finally:
            websocket.close()
            while await websocket.read_message() is not None:
                pass


def refused(server: Server, path: str, body: object) -> str:
    """Send a request that the server refuses with status 400, and return the reason."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        server.fetch("POST", path, body)
    with raised.value as response:
        assert response.code == 400
        return str(json.load(response)["message"])


@pytest.fixture
def folders() -> Iterator[dict[str, str]]:
    with own_folders() as environment:
        yield environment


@pytest.fixture
def server(folders: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Server]:
    """Run jupyter_server; parametrize it indirectly with further options."""
    options = [
        f"--ServerApp.jpserver_extensions={EXTENSION}",
        f"--ServerApp.root_dir={folders['HOME']}",
        "--IdentityProvider.token=t",
        "--ServerApp.ip=127.0.0.1",
        "--port=0",
        "--allow-root",
        "--no-browser",
        *getattr(request, "param", ()),
    ]
    command = [sys.executable, "-m", "jupyter_server", *options]
    with serving(*command, env=folders, says=r"(http://127\S+/)\?token=") as program:
        server = Server(program.said[1])
        server.wait_until_it_listens()
        yield server


async def send(websocket: WebSocketClientConnection, code: str, msg_type: str = "") -> None:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": msg_type or "execute_request",
        "session": "a",
        "username": "",
        "version": "5.3",
        "date": "",
    }
    empty: dict[str, Any] = {}
    await websocket.write_message(
        json.dumps(
            {
                "channel": "shell",
                "header": header,
                "parent_header": empty,
                "metadata": empty,
                "content": {"code": code, "store_history": True},
            }
        )
    )


async def outputs(websocket: WebSocketClientConnection) -> list[dict[str, Any]]:
    """Return all messages until an execution has ended, with its idle."""
    received: list[dict[str, Any]] = []
    while True:
        frame = await websocket.read_message()
        assert frame is not None, websocket.close_reason
        message = json.loads(frame)
        received.append(message)
        if (
            message["content"].get("execution_state") == "idle"
            and message["parent_header"].get("msg_type") == "execute_request"
        ):
            return received


async def start_to_print(websocket: WebSocketClientConnection, file: str) -> None:
    """Start a cell that prints 300 lines once a file exists."""
    await send(
        websocket,
        f"import os, time\nwhile not os.path.exists({file!r}): time.sleep(0.01)\n"
        "for i in range(300): print(i, flush=True)",
    )
    while "execute_input" not in str(await websocket.read_message()):
        pass


def text_of(messages: list[dict[str, Any]]) -> str:
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


@pytest.mark.asyncio
async def test_kernel_is_executed_interrupted_restarted_and_survives_a_crash(
    server: Server,
) -> None:
    kernel = server.fetch("POST", "kernels", {"name": "fork/kernel", "path": ""})
    action = f"kernels/{kernel['id']}"
    async with server.connect(kernel["id"]) as websocket:
        await send(websocket, "import os; a = 1; print(os.getpid())")
        first = text_of(await outputs(websocket))
        await send(websocket, "print('busy', flush=True)\nwhile True: pass")
        while "busy\\n" not in str(await websocket.read_message()):
            pass
        assert server.fetch("GET", action)["execution_state"] == "busy"
        server.fetch("POST", f"{action}/interrupt", {})
        assert "KeyboardInterrupt" in [m["content"].get("ename") for m in await outputs(websocket)]

        server.fetch("POST", f"{action}/restart", {})
        await send(websocket, "import os; print(os.getpid(), 'a' in globals())")
        second = text_of(await outputs(websocket))
        assert second.endswith(" False\n")
        assert second.split()[0] != first.strip()

        await send(websocket, "import os; os._exit(3)")
        died = await outputs(websocket)
        assert text_of(died) == "[the kernel died: exit status 3]\n"
        assert "restarting" in [m["content"].get("execution_state") for m in died]
        await send(websocket, "print('again')")
        assert "again\n" in text_of(await outputs(websocket))

        model = server.fetch("GET", action)
        assert (model["execution_state"], model["connections"]) == ("idle", 1)
    server.fetch("DELETE", action)
    assert server.fetch("GET", "kernels") == []


@pytest.mark.asyncio
async def test_output_goes_on_when_a_page_is_loaded_again(server: Server) -> None:
    kernel = server.fetch("POST", "kernels", {"name": "fork/kernel", "path": ""})
    other = server.fetch("POST", "kernels", {"name": "fork/kernel", "path": ""})
    async with server.connect(kernel["id"]) as websocket:
        await start_to_print(websocket, "left")
    while server.fetch("GET", f"kernels/{kernel['id']}")["connections"]:
        pass
    async with server.connect(other["id"]) as websocket:
        await send(websocket, "open('left', 'w').close()")
        await outputs(websocket)

    async with server.connect(kernel["id"], session="b") as websocket:
        assert text_of(await outputs(websocket)).split() == [str(i) for i in range(300)]


def run_to_the_end(server: Server, kernel_id: str, signal: Path) -> None:
    """Let a cell print and end; the client reads nothing, because this blocks its event loop."""
    signal.touch()
    while server.fetch("GET", f"kernels/{kernel_id}")["execution_state"] != "idle":
        pass


@pytest.mark.asyncio
async def test_page_receives_again_all_that_it_has_not_acknowledged(
    server: Server, folders: dict[str, str]
) -> None:
    kernel = server.fetch("POST", "kernels", {"name": "fork/kernel", "path": ""})
    async with server.connect(kernel["id"]) as websocket:
        await start_to_print(websocket, "lost")
        run_to_the_end(server, kernel["id"], Path(folders["HOME"], "lost"))
        websocket.protocol.stream.close()

    async with server.connect(kernel["id"]) as websocket:
        assert text_of(await outputs(websocket)).split() == [str(i) for i in range(300)]


@pytest.mark.asyncio
async def test_renamed_session_has_its_name_after_a_restart(server: Server) -> None:
    kernel = {"name": "fork/kernel"}
    session = server.fetch(
        "POST", "sessions", {"path": "a.ipynb", "type": "notebook", "name": "a", "kernel": kernel}
    )
    server.fetch("PATCH", f"sessions/{session['id']}", {"path": "b.ipynb", "name": "b"})
    server.fetch("POST", f"kernels/{session['kernel']['id']}/restart", {})
    async with server.connect(session["kernel"]["id"]) as websocket:
        await send(websocket, "import os; print(os.path.basename(os.environ['JPY_SESSION_NAME']))")
        assert text_of(await outputs(websocket)) == "b\n"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "server",
    [
        [
            "--MappingKernelManager.allow_tracebacks=False",
            "--MappingKernelManager.allowed_message_types=['execute_request']",
            "--ZMQChannelsWebsocketConnection.iopub_msg_rate_limit=10",
        ]
    ],
    indirect=True,
)
async def test_settings_of_jupyter_server_apply(server: Server) -> None:
    kernel = server.fetch("POST", "kernels", {"name": "fork/kernel", "path": ""})
    async with server.connect(kernel["id"]) as websocket:
        await send(websocket, "", "kernel_info_request")
        await send(websocket, "secret")
        messages = await outputs(websocket)
        assert not [m for m in messages if m["msg_type"] == "kernel_info_reply"]
        errors = [m for m in messages if m["msg_type"] in ("error", "execute_reply")]
        assert errors
        assert "secret" not in json.dumps(errors)

        await send(websocket, "for i in range(1000): print(i, flush=True)")
        messages = await outputs(websocket)
        text = text_of(messages)
        assert "IOPub message rate exceeded" in text
        assert {m["parent_header"].get("msg_type") for m in messages} == {"execute_request"}
        assert "999" not in text


def test_list_of_extensions_shows_the_version() -> None:
    assert extension.__version__ == kernelproto.__version__


def test_launcher_has_all_kernel_types(server: Server) -> None:
    found = server.fetch("GET", "kernelspecs")["kernelspecs"]

    assert {"python3", "fork/kernel", "pyimport/kernel"} <= found.keys()
    assert "fork/python3" not in found  # it is the kernelspec python3
    logo = found["fork/kernel"]["resources"]["logo-64x64"].lstrip("/")
    request = urllib.request.Request(server.url + logo, headers={"Authorization": "token t"})
    with urllib.request.urlopen(request) as response:
        assert response.status == 200


@pytest.mark.asyncio
async def test_requests_have_launch_parameters(server: Server) -> None:
    params = {"env": {"COLOUR": "green"}}
    kernel = {"name": "fork/kernel", "launch_params": params}
    session = {"path": "a.ipynb", "type": "notebook", "kernel": kernel}
    started = server.fetch("POST", "kernels", kernel)
    of_session = server.fetch("POST", "sessions", session)["kernel"]
    for kernel_id in (started["id"], of_session["id"]):
        async with server.connect(kernel_id) as websocket:
            await send(websocket, "import os; print(os.environ['COLOUR'])")
            assert text_of(await outputs(websocket)) == "green\n"

    assert "exists already" in refused(server, "sessions", session)
    existing = {**session, "path": "b.ipynb", "kernel": {**kernel, "id": started["id"]}}
    assert "exists already" in refused(server, "sessions", existing)
    existing = {**kernel, "kernel_id": started["id"]}
    assert "exists already" in refused(server, "kernels", existing)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"colour": "green"}, "colour"),
        ({"output": "/tmp/x"}, "'output' cannot be set by a client"),
        (["env"], "an object is required"),
    ],
)
def test_launch_parameters_that_are_refused(server: Server, params: object, reason: str) -> None:
    kernel = {"name": "fork/kernel", "launch_params": params}
    session = {"path": "a.ipynb", "type": "notebook", "kernel": kernel}

    assert reason in refused(server, "kernels", kernel)
    assert reason in refused(server, "sessions", session)
    assert server.fetch("GET", "kernels") == []


@pytest.mark.parametrize(
    "server",
    [
        [
            "--ServerApp.kernel_manager_class="
            "jupyter_server.services.kernels.kernelmanager.AsyncMappingKernelManager"
        ]
    ],
    indirect=True,
)
def test_classes_that_the_user_has_chosen_are_left_alone(server: Server) -> None:
    assert "fork/kernel" not in server.fetch("GET", "kernelspecs")["kernelspecs"]
