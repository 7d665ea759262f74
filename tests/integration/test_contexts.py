"""The contexts of a server, as a program, with real kernels and over a real network.

While a server runs, the stall oracle asks it for /healthz, and fails the test after a pause.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.test_server_users import LOOPS, WORK, serving

pytestmark = pytest.mark.usefixtures("no_leaks")

LARGE = """
from IPython.display import publish_display_data as show
show({"application/json": [[]] * 2_000_000}, {})
show({f"a/{number}": "" for number in range(300_000)}, {})
show({"image/png": "A" * 4 * 2**20}, {})
print("x" * 4 * 2**20)
show({"text/plain": "\\n" * 1_000_000}, {})
"""
FLOOD = "for number in range(3_000): print(number, flush=True)"


def start(client: httpx.Client, **request: object) -> str:
    response = client.post("/api/contexts", json=request)
    assert response.status_code == 201, response.text
    return f"/api/contexts/{response.json()['id']}"


def execute(client: httpx.Client, context: str, code: str, **options: Any) -> list[dict[str, Any]]:
    body = {"code": code, **options}
    with client.stream("POST", f"{context}/execute", json=body) as response:
        assert response.status_code == 200
        return [json.loads(line) for line in response.iter_lines()]


@pytest.mark.parametrize("program", LOOPS)
def test_users_and_their_outputs_and_files(program: list[str], tmp_path: Path) -> None:
    with (
        serving(program, root_dir=tmp_path) as server,
        server.client("ada") as ada,
        server.client("bob") as bob,
    ):
        contexts = {}
        for client, name in ((ada, "ada"), (bob, "bob")):
            contexts[name] = start(client, language="python")
            execute(client, contexts[name], f"name = {name!r}")
        for client, name in ((ada, "ada"), (bob, "bob")):
            result, _, end = execute(client, contexts[name], "name")
            assert (result["text"], end["status"]) == (repr(name), "ok")
            others = contexts["bob" if name == "ada" else "ada"]
            response = client.post(f"{others}/execute", json={"code": "name"})
            assert response.status_code == 404

        flood = execute(ada, contexts["ada"], FLOOD)
        printed = "".join(event["text"] for event in flood if event["type"] == "stdout")
        assert printed.split() == [str(number) for number in range(3_000)]

        body = {"code": WORK}
        with ada.stream("POST", f"{contexts['ada']}/execute", json=body) as response:
            assert "working" in next(response.iter_lines())
        # The client has left: the code is interrupted, and the next runs.
        assert execute(ada, contexts["ada"], "name", timeout=60)[0]["text"] == "'ada'"

        path = f"{contexts['ada']}/files"
        data = os.urandom(2**20) * 30
        assert ada.put(f"{path}/large", content=data).status_code == 204
        assert ada.get(f"{path}/large").content == data
        assert ada.get(f"{path}/large", headers={"range": "bytes=-9"}).content == data[-9:]
        bytewise = ada.put(f"{path}/bytewise", content=(b"x" for _ in range(3000)))
        assert bytewise.status_code == 204
        size = "import os; os.path.getsize('bytewise')"
        assert execute(ada, contexts["ada"], size)[0]["text"] == "3000"
        assert bob.get(f"{path}/large").status_code == 404


@pytest.mark.parametrize("program", LOOPS[:1])
def test_large_outputs_delay_no_other_client(program: list[str]) -> None:
    with serving(program) as server, server.client("ada") as ada:
        context = start(ada)
        events = execute(ada, context, LARGE)
        assert [event["type"] for event in events if event["type"] != "keepalive"] == [
            "result",
            "result",
            "result",
            "stdout",
            "result",
            "number_of_executions",
            "end_of_execution",
        ]
        assert len(events[1]["extra"]) == 300_000
