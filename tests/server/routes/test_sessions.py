"""Sessions: a session assigns a kernel to a document."""

from __future__ import annotations

import uuid

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import LaunchError
from kernelproto.testing import Exchange, FakeKernel, FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

NOTEBOOK = {"path": "a.ipynb", "type": "notebook", "name": "a", "kernel": {"name": "fake/kernel"}}


async def test_life_of_a_session(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/sessions", json=NOTEBOOK)
        assert response.status_code == 201
        model = response.json()
        assert response.headers["location"] == f"/api/sessions/{model['id']}"
        assert uuid.UUID(model["id"])
        assert {key: model[key] for key in ("path", "type", "name")} == {
            key: NOTEBOOK[key] for key in ("path", "type", "name")
        }
        assert model["kernel"] == (await ada.get("/api/kernels")).json()[0]
        one = f"/api/sessions/{model['id']}"
        assert (await ada.get(one)).json() == model
        assert (await ada.get("/api/sessions")).json() == [model]
        renamed = await ada.patch(one, json={"path": "b.ipynb", "name": ""})
        assert renamed.json() == {**model, "path": "b.ipynb", "name": ""}
        assert (await ada.delete(one)).status_code == 204
        assert (await ada.get(one)).status_code == 404
        assert (await ada.get("/api/kernels")).json() == []


async def test_existing_path_returns_the_existing_session(serving) -> None:
    models = []

    async with serving(max_per_user=5) as server, server.client("ada") as ada:

        async def open_notebook() -> None:
            models.append((await ada.post("/api/sessions", json=NOTEBOOK)).json())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(open_notebook)
        assert len({model["id"] for model in models}) == 1
        assert len(server.provider.kernels) == 1


async def test_session_for_an_existing_kernel(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        body = {**NOTEBOOK, "kernel": {"id": kernel_id}}
        model = (await ada.post("/api/sessions", json=body)).json()
        assert model["kernel"]["id"] == kernel_id


async def test_change_of_kernel_ends_the_old_one(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        one = f"/api/sessions/{model['id']}"
        same = await ada.patch(one, json={"kernel": {"id": model["kernel"]["id"]}})
        assert same.json() == model
        changed = (await ada.patch(one, json={"kernel": {"name": "fake/kernel"}})).json()
        assert changed["id"] == model["id"]
        assert changed["kernel"]["id"] != model["kernel"]["id"]
        assert [kernel["id"] for kernel in (await ada.get("/api/kernels")).json()] == [
            changed["kernel"]["id"]
        ]
        assert (await ada.patch(one, json={"kernel": {"id": "nonsense"}})).status_code == 404
        assert (await ada.get(one)).json() == changed


async def test_shared_kernel_stays_when_a_session_replaces_its_kernel(serving) -> None:
    async with serving(max_per_user=2) as server, server.client("ada") as ada:
        first = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        body = {**NOTEBOOK, "path": "b.ipynb", "kernel": {"id": first["kernel"]["id"]}}
        second = (await ada.post("/api/sessions", json=body)).json()
        change = {"kernel": {"name": "fake/kernel"}}
        await ada.patch(f"/api/sessions/{second['id']}", json=change)
        assert (await ada.get(f"/api/sessions/{first['id']}")).json() == first


async def open_shared(ada, first: dict, path: str) -> dict:
    """Open a session of another document with the kernel of the first one."""
    body = {"path": path, "type": "notebook", "kernel": {"id": first["kernel"]["id"]}}
    return (await ada.post("/api/sessions", json=body)).json()


async def test_kernel_ends_with_the_last_of_its_sessions(serving) -> None:
    async with serving(max_per_user=2) as server, server.client("ada") as ada:
        first = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        second = await open_shared(ada, first, "b.ipynb")
        assert (await ada.delete(f"/api/sessions/{first['id']}")).status_code == 204
        assert (await ada.get("/api/sessions")).json() == [second]
        assert (await ada.get("/api/kernels")).json() == [second["kernel"]]
        assert (await ada.delete(f"/api/sessions/{second['id']}")).status_code == 204
        assert (await ada.get("/api/kernels")).json() == []


async def test_shared_kernel_ends_once_when_both_sessions_end(serving) -> None:
    statuses = []

    async with serving(max_per_user=2) as server, server.client("ada") as ada:

        async def close(session: dict) -> None:
            statuses.append((await ada.delete(f"/api/sessions/{session['id']}")).status_code)

        first = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        second = await open_shared(ada, first, "b.ipynb")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close, first)
            tasks.start_soon(close, second)
        assert statuses == [204, 204]
        assert (await ada.get("/api/kernels")).json() == []


@pytest.mark.parametrize("max_per_user", [1, 2])
async def test_kernel_stays_when_the_next_cannot_start(serving, max_per_user: int) -> None:
    settings = {"starts_per_minute": 0.1, "start_burst": 2}
    async with serving(settings, max_per_user=max_per_user) as server, server.client("ada") as ada:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        one = f"/api/sessions/{model['id']}"
        for name, status in [("fake/kernle", 404), ("fake/kernel", 429)]:
            refused = await ada.patch(one, json={"kernel": {"name": name}})
            assert refused.status_code == status, refused.text
            assert (await ada.get(one)).json() == model


@pytest.mark.parametrize(
    ("kernel", "status", "says"),
    [
        ({"name": "fake/kernle"}, 404, "kernle"),
        ({"name": "nope/kernel"}, 404, "nope"),
        ({"name": "fake/kernel", "env": {"KERNEL_X": "\0"}}, 400, "env"),
    ],
)
async def test_kernel_stays_when_the_request_is_refused(serving, kernel, status, says) -> None:
    async with serving() as server, server.client("ada") as ada:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        one = f"/api/sessions/{model['id']}"
        refused = await ada.patch(one, json={"path": "b.ipynb", "kernel": kernel})
        assert refused.status_code == status
        assert says in refused.json()["message"]
        assert (await ada.get(one)).json() == model  # including its old path


@pytest.mark.parametrize("options", [{"max_per_user": 1}, {"max_per_user": 2, "max_kernels": 1}])
async def test_session_ends_when_its_old_kernel_was_ended_in_vain(
    serving, options, monkeypatch, caplog
) -> None:
    async def launch(self, name, **options):
        raise LaunchError("it does not start\ncommand: secret")

    async with serving(**options) as server, server.client("ada") as ada:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        monkeypatch.setattr(FakeProvider, "launch", launch)
        change = {"kernel": {"name": "fake/kernel"}}
        lost = await ada.patch(f"/api/sessions/{model['id']}", json=change)
        assert lost.status_code == 502
        assert lost.json()["message"] == (
            "it does not start; the session's old kernel was shut down to make room, so this "
            "session has ended: open the document again"
        )
        assert (await ada.get("/api/sessions")).json() == []
        assert (await ada.get("/api/kernels")).json() == []
        monkeypatch.undo()
        assert (await ada.post("/api/sessions", json=NOTEBOOK)).status_code == 201
    assert f"a session ends: kernel {model['kernel']['id']} was ended" in caplog.text


async def test_replaced_kernel_gives_its_place_to_the_next_kernel_only(serving) -> None:
    ending, may_end = anyio.Event(), anyio.Event()

    def prepare(fake: FakeKernel) -> None:
        async def shut_down(exchange: Exchange) -> None:
            ending.set()
            await may_end.wait()
            fake.die(0)

        fake.on("shutdown_request", shut_down)

    changed = []
    async with (
        serving(prepare=prepare, max_kernels=1) as server,
        server.client("ada") as ada,
        server.client("bob") as bob,
    ):
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()

        async def change() -> None:
            body = {"kernel": {"name": "fake/kernel"}}
            changed.append(await ada.patch(f"/api/sessions/{model['id']}", json=body))

        async with server.connect("ada", model["kernel"]["id"]), anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            await ending.wait()
            assert (await bob.post("/api/kernels")).status_code == 503
            may_end.set()
        (response,) = changed
        assert response.status_code == 200
        assert response.json()["kernel"]["id"] != model["kernel"]["id"]
        assert (await ada.get("/api/sessions")).json() == [response.json()]


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_requests_for_a_session_are_handled_in_turn(serving, method: str) -> None:
    responses = {}
    async with serving() as server, server.client("ada") as ada:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        one = f"/api/sessions/{model['id']}"

        async def ask(method: str, number: int) -> None:
            body = {"kernel": {"name": "fake/kernel"}}
            responses[number] = await ada.request(method, one, json=body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "PATCH", 1)
            while server.pool.find(model["kernel"]["id"], user="ada") is not None:
                await checkpoint()
            tasks.start_soon(ask, method, 2)
        assert responses[1].status_code == 200
        assert responses[2].status_code == (204 if method == "DELETE" else 200)
        left = [] if method == "DELETE" else [responses[2].json()]
        assert (await ada.get("/api/sessions")).json() == left
        assert (await ada.get("/api/kernels")).json() == [session["kernel"] for session in left]


async def test_sessions_of_users_who_never_return_are_forgotten(serving) -> None:
    async with serving() as server, server.client("ada") as ada, server.client("bob") as bob:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        (route,) = [
            r for r in server.app.routes if r.path == "/api/sessions" and "GET" in r.methods
        ]
        assert route.endpoint.__self__._own_table.users == ["ada"]
        await server.pool.release("ada", name=model["kernel"]["id"])
        await bob.post("/api/sessions", json=NOTEBOOK)
        assert route.endpoint.__self__._own_table.users == ["bob"]


async def test_session_ends_with_its_kernel(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        await ada.delete(f"/api/kernels/{model['kernel']['id']}")
        assert (await ada.get("/api/sessions")).json() == []
        again = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        assert again["id"] != model["id"]


async def test_sessions_of_other_users_are_not_found(serving) -> None:
    async with serving() as server, server.client("ada") as ada, server.client("bob") as bob:
        model = (await ada.post("/api/sessions", json=NOTEBOOK)).json()
        one = f"/api/sessions/{model['id']}"
        assert (await bob.get("/api/sessions")).json() == []
        for method in ("GET", "DELETE", "PATCH"):
            assert (await bob.request(method, one, json={})).status_code == 404
        body = {**NOTEBOOK, "kernel": {"id": model["kernel"]["id"]}}
        assert (await bob.post("/api/sessions", json=body)).status_code == 404
        assert (await ada.get(one)).json() == model


@pytest.mark.parametrize(
    ("body", "says"),
    [({}, "path"), ({"path": "a"}, "type"), ({**NOTEBOOK, "kernel": "x"}, "kernel")],
)
async def test_invalid_bodies_are_refused(serving, body: object, says: str) -> None:
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/sessions", json=body)
        assert response.status_code == 400
        assert says in response.json()["message"]


async def test_number_of_sessions_is_limited(serving) -> None:
    async with serving({"max_sessions_per_user": 2}) as server, server.client("ada") as ada:
        kernel = {"id": await server.start("ada")}
        for number in range(2):
            body = {"path": f"{number}", "type": "console", "kernel": kernel}
            assert (await ada.post("/api/sessions", json=body)).status_code == 201
        refused = await ada.post("/api/sessions", json={**body, "path": "2"})
        assert refused.status_code == 429
        assert refused.json()["message"] == (
            "you may have at most 2 sessions at the same time (max_sessions_per_user): "
            "close one first"
        )
        one = f"/api/sessions/{(await ada.get('/api/sessions')).json()[0]['id']}"
        assert (await ada.patch(one, json={"path": "2"})).status_code == 200
        assert (await ada.delete(one)).status_code == 204


async def test_size_of_paths_and_names_is_limited(serving) -> None:
    async with serving({"max_session_bytes": 100}) as server, server.client("ada") as ada:
        kernel = {"id": await server.start("ada")}
        body = {"path": "x" * 40, "type": "x" * 10, "kernel": kernel}
        one = f"/api/sessions/{(await ada.post('/api/sessions', json=body)).json()['id']}"
        for more in (
            ada.post("/api/sessions", json={**body, "path": "y" * 41}),
            ada.patch(one, json={"path": "x" * 91}),
            ada.patch(one, json={"name": "\N{SNOWMAN}" * 17}),
        ):
            refused = await more
            assert refused.status_code == 429
            assert "max_session_bytes" in refused.json()["message"]
        assert (await ada.patch(one, json={"name": "x" * 50})).status_code == 200
        assert len((await ada.get("/api/sessions")).json()) == 1
