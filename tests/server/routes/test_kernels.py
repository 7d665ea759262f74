"""The REST API of the kernels, with fake kernels and without a network."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

UNKNOWN_ID = str(uuid.UUID(int=0))
ROUTES = [
    ("GET", f"/api/kernels/{UNKNOWN_ID}"),
    ("DELETE", f"/api/kernels/{UNKNOWN_ID}"),
    ("POST", f"/api/kernels/{UNKNOWN_ID}/interrupt"),
    ("POST", f"/api/kernels/{UNKNOWN_ID}/restart"),
]


async def test_client_can_tell_a_fresh_kernel_from_the_old_one(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        chosen = {"kernel_id": str(uuid.uuid4())}
        kernel = f"/api/kernels/{chosen['kernel_id']}"
        first = (await ada.post("/api/kernels", json=chosen)).json()
        assert "previous_end" not in first
        assert (await ada.post("/api/kernels", json=chosen)).json() == first

        async with server.connect("ada", chosen["kernel_id"]) as socket:
            server.provider.kernels[0].die(3)
            await socket.receive_until("status")
            await socket.finish(await socket.execute("6 * 7"))
        again = (await ada.post("/api/kernels", json=chosen)).json()
        assert again["process_started"] > first["process_started"]
        assert again["previous_end"] == "the kernel died: exit status 3"

        await ada.post(f"{kernel}/restart")
        restarted = (await ada.get(kernel)).json()
        assert restarted["process_started"] > again["process_started"]
        assert restarted["previous_end"] == "the kernel was restarted"

        await ada.delete(kernel)
        fresh = (await ada.post("/api/kernels", json=chosen)).json()
        assert fresh["process_started"] > restarted["process_started"]
        assert fresh["previous_end"] == "the kernel was shut down"
        async with server.client("bob") as bob:
            other = (await bob.post("/api/kernels", json=chosen)).json()
        assert "previous_end" not in other  # ids are separate for each user


async def test_life_of_a_kernel(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/kernels")
        assert response.status_code == 201
        model = response.json()
        assert response.headers["location"] == f"/api/kernels/{model['id']}"
        assert set(model) == {
            "id",
            "name",
            "last_activity",
            "execution_state",
            "connections",
            "process_started",
            "ends_at",
            "end_reason",
        }
        assert uuid.UUID(model["id"])
        assert model["name"] == "fake/kernel"
        assert model["execution_state"] == "idle"
        assert datetime.strptime(model["last_activity"], "%Y-%m-%dT%H:%M:%S.%fZ")
        assert re.search(r"\.\d{6}Z$", model["last_activity"])
        one = f"/api/kernels/{model['id']}"
        assert (await ada.get("/api/kernels")).json() == [model]
        assert (await ada.get(one)).json() == model
        assert (await ada.post(f"{one}/interrupt")).status_code == 204
        response = await ada.post(f"{one}/restart")
        assert response.status_code == 200
        assert response.json()["id"] == model["id"]
        assert (await ada.delete(one)).status_code == 204
        assert (await ada.get(one)).status_code == 404
        assert (await ada.get("/api/kernels")).json() == []


async def test_interrupt_ends_the_running_code(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            request = await socket.execute("work")
            await socket.receive_until("execute_input", request)
            model = (await ada.get(f"/api/kernels/{kernel_id}")).json()
            assert (model["execution_state"], model["connections"]) == ("busy", 1)
            assert (await ada.post(f"/api/kernels/{kernel_id}/interrupt")).status_code == 204
            messages = await socket.finish(request)
    assert [m.content.ename for m in messages if m.msg_type == "error"] == ["KeyboardInterrupt"]


@pytest.mark.parametrize("user", ["bob", "root"])
async def test_kernels_of_other_users_are_not_found(serving, user: str) -> None:
    async with serving() as server, server.client(user) as client:
        kernel_id = await server.start("ada")
        for method, path in ROUTES:
            theirs = await client.request(method, path.replace(UNKNOWN_ID, kernel_id))
            unknown = await client.request(method, path)
            assert theirs.status_code == unknown.status_code == 404
            assert theirs.text.replace(kernel_id, UNKNOWN_ID) == unknown.text
        response = await client.post("/api/kernels", json={"id": kernel_id})
        assert response.status_code == 404
        assert (await client.get("/api/kernels")).json() == []
        assert server.provider.kernels[0].returncode is None


async def test_include_all_shows_an_admin_all_kernels(serving) -> None:
    async with serving() as server:
        for user in ("ada", "bob"):
            await server.start(user)
        listed = {}
        for user in ("ada", "root"):
            async with server.client(user) as client:
                response = await client.get("/api/kernels?include_all=1")
                listed[user] = [model.get("owner") for model in response.json()]
                status = (await client.get("/api/status")).json()
                assert status["kernels"] == (2 if user == "root" else 1)
    assert listed == {"ada": [None], "root": ["ada", "bob"]}


@pytest.mark.parametrize("query", ["?include_all=1", "?include_all=1&owner=ada"])
async def test_only_admins_control_kernels_of_other_users(serving, query: str) -> None:
    async with serving() as server:
        kernel_id = await server.start("ada")
        one = f"/api/kernels/{kernel_id}"
        routes = [("GET", one, 200), ("POST", f"{one}/interrupt", 204)]
        routes += [("POST", f"{one}/restart", 200), ("DELETE", one, 204)]
        async with server.client("bob") as bob:
            for method, path, _ in routes:
                theirs = await bob.request(method, f"{path}{query}")
                unknown = await bob.request(method, f"{path.replace(kernel_id, UNKNOWN_ID)}{query}")
                assert theirs.status_code == unknown.status_code == 404
                assert theirs.text.replace(kernel_id, UNKNOWN_ID) == unknown.text
        async with server.client("root") as root:
            for method, path, status in routes:
                assert (await root.request(method, f"{path}{query}")).status_code == status
            assert (await root.delete(f"{one}{query}")).status_code == 404


async def test_admin_names_the_owner_if_two_users_have_the_same_id(serving) -> None:
    async with serving() as server:
        for user in ("ada", "root"):
            async with server.client(user) as client:
                await client.post("/api/kernels", json={"kernel_id": UNKNOWN_ID})
        one = f"/api/kernels/{UNKNOWN_ID}"
        async with server.client("root") as root:
            ambiguous = await root.delete(f"{one}?include_all=1")
            assert ambiguous.status_code == 409
            assert "owner=NAME" in ambiguous.json()["message"]
            assert (await root.delete(f"{one}?include_all=1&owner=bob")).status_code == 404
            assert (await root.delete(f"{one}?include_all=1&owner=ada")).status_code == 204
            assert [kernel.user for kernel in server.pool.kernels()] == ["root"]
            assert (await root.delete(one)).status_code == 204


async def test_errors_name_the_limit(serving) -> None:
    async with serving(max_kernels=1) as server:
        kernel_id = await server.start("ada")
        async with server.client("ada") as ada, server.connect("ada", kernel_id):
            over = await ada.post("/api/kernels")
            assert over.status_code == 429
            assert over.json()["message"] == (
                "you may have at most 1 kernel at the same time: shut one down first"
            )
            async with server.client("bob") as bob:
                full = await bob.post("/api/kernels")
        assert full.status_code == 503
        assert "try again later" in full.json()["message"]
        assert int(full.headers["retry-after"]) > 0
        await server.start("bob")  # now ada's kernel is idle and unconnected
        assert [kernel.user for kernel in server.pool.kernels()] == ["bob"]


async def test_start_passes_allowed_variables(serving, tmp_path) -> None:
    (tmp_path / "notes").mkdir()
    settings = {"root_dir": str(tmp_path), "allow_env": ["LANG"]}
    env = {"KERNEL_NAME": "x", "LANG": "C", "LD_PRELOAD": "evil.so"}
    async with serving(settings, env={"POOLS": "own"}) as server, server.client("ada") as ada:
        body = {"name": "fake/kernel", "path": "notes/a.ipynb", "env": env, "later": "unknown"}
        assert (await ada.post("/api/kernels", json=body)).status_code == 201
        (fake,) = server.provider.kernels
    assert fake.cwd == str(tmp_path / "notes")
    assert fake.env == {"POOLS": "own", "KERNEL_NAME": "x", "LANG": "C"}


async def test_start_with_the_id_of_a_kernel_finds_it(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        response = await ada.post("/api/kernels", json={"kernel_id": kernel_id})
        assert (response.status_code, response.json()["id"]) == (201, kernel_id)


async def test_client_chooses_the_id_of_a_new_kernel(serving) -> None:
    """Another user may choose the same id, so the response does not reveal its use."""
    chosen = str(uuid.uuid4())
    async with serving() as server:
        for user in ("ada", "bob"):
            async with server.client(user) as client:
                body = {"kernel_id": chosen.upper()}
                for _ in range(2):  # the second time the kernel exists
                    response = await client.post("/api/kernels", json=body)
                    assert (response.status_code, response.json()["id"]) == (201, chosen)
                assert [model["id"] for model in (await client.get("/api/kernels")).json()] == [
                    chosen
                ]
                async with server.connect(user, chosen) as socket:
                    await socket.finish(await socket.execute("6 * 7"))
        assert len(server.provider.kernels) == 2
