"""The REST API, with fake kernels and without a network."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator
from datetime import datetime

import pytest
from anyio.lowlevel import checkpoint

from kernelproto import LaunchError
from kernelproto.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

NOBODYS_ID = str(uuid.UUID(int=0))
ROUTES = [
    ("GET", "/api"),
    ("GET", "/api/status"),
    ("GET", "/api/me"),
    ("GET", "/api/kernels"),
    ("POST", "/api/kernels"),
    ("GET", f"/api/kernels/{NOBODYS_ID}"),
    ("DELETE", f"/api/kernels/{NOBODYS_ID}"),
    ("POST", f"/api/kernels/{NOBODYS_ID}/interrupt"),
    ("POST", f"/api/kernels/{NOBODYS_ID}/restart"),
    ("GET", "/api/kernelspecs"),
    ("GET", "/api/kernelspecs/fake/kernel"),
    ("GET", "/kernelspecs/fake/kernel/logo-64x64.png"),
    ("GET", "/api/sessions"),
    ("POST", "/api/sessions"),
    ("GET", f"/api/sessions/{NOBODYS_ID}"),
    ("PATCH", f"/api/sessions/{NOBODYS_ID}"),
    ("DELETE", f"/api/sessions/{NOBODYS_ID}"),
    ("GET", "/"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize("user", [None, "stranger"])
async def test_unknown_user_is_refused(serving, user: str | None) -> None:
    async with serving() as server, server.client(user) as client:
        for method, path in ROUTES:
            response = await client.request(method, path)
            assert (response.status_code, path) == (403, path)
            assert response.json()["reason"] == "Forbidden"
        assert server.pool.kernels() == []


async def test_responses_have_security_headers(serving) -> None:
    async with serving() as server:
        for user in ("ada", None):
            async with server.client(user) as client:
                headers = (await client.get("/api")).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert "set-cookie" not in headers


async def test_cors_preflight_needs_no_token(serving) -> None:
    """Its response has security headers, too."""
    asks = {
        "origin": "https://friend.test",
        "access-control-request-method": "DELETE",
        "access-control-request-headers": "authorization",
    }
    settings = {"allow_origins": ["https://friend.test"]}
    async with serving(settings) as server, server.client(**asks) as client:
        response = await client.options("/api/kernels")
        stranger = await client.options("/api/kernels", headers={"origin": "https://evil.test"})
    assert (response.status_code, stranger.status_code) == (200, 400)
    assert response.headers["access-control-allow-origin"] == "https://friend.test"
    assert "access-control-allow-origin" not in stranger.headers
    for headers in (response.headers, stranger.headers):
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


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
            if NOBODYS_ID in path and "kernels" in path:
                theirs = await client.request(method, path.replace(NOBODYS_ID, kernel_id))
                nobodys = await client.request(method, path)
                assert theirs.status_code == nobodys.status_code == 404
                assert theirs.text.replace(kernel_id, NOBODYS_ID) == nobodys.text
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
                nobodys = await bob.request(method, f"{path.replace(kernel_id, NOBODYS_ID)}{query}")
                assert theirs.status_code == nobodys.status_code == 404
                assert theirs.text.replace(kernel_id, NOBODYS_ID) == nobodys.text
        async with server.client("root") as root:
            for method, path, status in routes:
                assert (await root.request(method, f"{path}{query}")).status_code == status
            assert (await root.delete(f"{one}{query}")).status_code == 404


async def test_admin_names_the_owner_if_two_users_have_the_same_id(serving) -> None:
    async with serving() as server:
        for user in ("ada", "root"):
            async with server.client(user) as client:
                await client.post("/api/kernels", json={"kernel_id": NOBODYS_ID})
        one = f"/api/kernels/{NOBODYS_ID}"
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


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"name": "nonsense"}', 404, "nonsense"),
        (b'{"id": "nonsense"}', 404, "nonsense"),
        (b'{"kernel_id": "nonsense"}', 400, "UUID"),
        (b"{", 400, "body"),
        (b"[]", 400, "object"),
        (b'{"name": 1}', 400, "name"),
        (b'{"env": {"KERNEL_X": 1}}', 400, "env"),
        (b'{"env": "x"}', 400, "env"),
        (b"[" * 100_000, 400, "body"),
    ],
)
async def test_invalid_bodies_are_refused(serving, body: bytes, status: int, says: str) -> None:
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/kernels", content=body)
        assert response.status_code == status
        assert set(response.json()) == {"message", "reason"}
        assert says in response.json()["message"]
        assert server.pool.kernels() == []


async def test_body_is_read_up_to_the_limit(serving) -> None:
    reads, sent = 0, []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/kernels",
        "query_string": b"token=ada",
        "headers": [],
    }

    async def receive() -> dict[str, object]:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(event: dict[str, object]) -> None:
        sent.append(event)

    async with serving({"max_body_bytes": 5000}) as server:
        await server.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert reads == 6


async def test_slow_body_is_answered_408(serving, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.responses.BODY_SECONDS", 0.01)

    async def trickle() -> AsyncGenerator[bytes]:
        while True:
            yield b" "
            await checkpoint()

    async with serving() as server, server.client("ada") as ada:
        for method, path in [("POST", "/api/kernels"), ("POST", "/api/sessions")]:
            response = await ada.request(method, path, content=trickle())
            assert response.status_code == 408
            assert response.json() == {
                "message": "the body did not arrive within 0.01 s",
                "reason": "Request Timeout",
            }
        assert server.pool.kernels() == []


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


async def test_error_of_a_failed_start_has_no_details(serving, monkeypatch) -> None:
    async def launch(self, name, **options):
        raise LaunchError("it does not start\ncommand: secret --key 1234\nTraceback")

    monkeypatch.setattr(FakeProvider, "launch", launch)
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/kernels")
        assert response.status_code == 502
        assert response.json() == {"message": "it does not start", "reason": "Bad Gateway"}


async def test_routes_about_the_server_and_the_user(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        assert "version" in (await ada.get("/api")).json()
        before = (await ada.get("/api/status")).json()
        assert (before["kernels"], before["connections"]) == (0, 0)
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id):
            after = (await ada.get("/api/status")).json()
        assert (after["kernels"], after["connections"]) == (1, 1)
        assert before["started"] == after["started"] < after["last_activity"]
        identity = (await ada.get("/api/me")).json()["identity"]
        assert (identity["username"], identity["initials"]) == ("ada", "A")


async def test_unknown_routes_are_json_errors(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        for method, path, status in [
            ("GET", "/nowhere", 404),
            ("GET", "/api/kernels/..%2f..%2fetc", 404),
            ("PUT", "/api/kernels", 405),
            ("GET", "/api/kernels/\N{SNOWMAN}", 404),
        ]:
            response = await ada.request(method, path)
            assert response.status_code == status
            assert set(response.json()) == {"message", "reason"}


async def test_other_origins_are_refused(serving) -> None:
    async with serving({"allow_origins": ["https://friend.test/"]}) as server:
        for origin, status in [
            ("https://evil.test", 403),
            ("null", 403),
            ("http://[", 403),
            ("https://friend.test", 201),
        ]:
            async with server.client(f"user of {origin}", origin=origin) as client:
                assert (await client.post("/api/kernels")).status_code == status


async def test_response_to_a_bug_has_no_traceback(serving, monkeypatch) -> None:
    async with serving() as server:
        monkeypatch.setattr(server.pool, "kernels", lambda user: 1 / 0)
        async with server.client("ada") as ada:
            ada._transport.raise_app_exceptions = False
            response = await ada.get("/api/kernels")
        monkeypatch.undo()
    assert response.status_code == 500
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "division" not in response.text
