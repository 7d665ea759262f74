"""The routes of the dashboard. tests/integration/browser/ uses them in a browser."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import anyio
import httpx
import psutil
import pytest
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.routing import Mount

from kernelproto import KernelFinder, KernelPool
from kernelproto.launch.providers import IPykernelProvider
from kernelproto.server import SingleUserToken, create_app
from kernelproto.server.limits import LimitTables, UserLimits
from tests.server.dashboard.conftest import ParsedPage

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = ["style.css", "script.js", "icon.svg"]
EVIL = "<script>alert(1)</script>\"'&"


@pytest.mark.anyio
async def test_user_sees_and_controls_their_own_kernels(serving) -> None:
    async with serving(max_per_user=2) as server:
        mine = [await server.start("ada"), await server.start("ada")]
        theirs = await server.start("bob")
        async with server.client("ada", **BROWSER) as ada, server.connect("ada", mine[0]):
            page = ParsedPage((await ada.get("/")).text)
    rows = [row["data-kernel"] for row in page.all("tr") if "data-kernel" in row]
    assert rows == mine
    assert theirs not in page.text
    assert "2 kernels" in page.text
    actions = [button["data-action"] for button in page.all("button") if "data-action" in button]
    assert actions == ["interrupt", "restart", "shutdown"] * 2


@pytest.mark.anyio
async def test_admin_sees_and_controls_all_kernels(serving) -> None:
    async with serving() as server:
        ids = {user: await server.start(user) for user in ("ada", "root", "bob")}
        async with server.client("root") as root:
            page = ParsedPage((await root.get("/")).text)
    rows = [row["data-kernel"] for row in page.all("tr") if "data-kernel" in row]
    assert rows == [ids["root"], ids["ada"], ids["bob"]]  # the admin's own first
    for user in ids:
        assert user in page.words
    owners = [row.get("data-owner") for row in page.all("tr") if "data-kernel" in row]
    assert owners == [None, "ada", "bob"]
    labels = [button.get("aria-label") or "" for button in page.all("button")]
    assert {label[-8:] for label in labels if label} == {ids[user][:8] for user in ids}


@pytest.mark.anyio
async def test_page_without_kernels_explains_how_to_start_one(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        text = ParsedPage((await ada.get("/?token=secret")).text).text
    assert "jupyter lab --gateway-url=http://server.test/" in text
    assert "http://server.test/api/kernels" in text
    assert "secret" not in text


@pytest.mark.anyio
async def test_names_are_escaped(serving) -> None:
    async with serving() as server, server.client(EVIL) as evil:
        await server.start(EVIL)
        page = ParsedPage((await evil.get("/")).text)
    assert EVIL in page.words
    assert [script.get("src") for script in page.all("script")] == ["dashboard/script.js"]


@pytest.mark.anyio
async def test_browser_without_a_valid_token_gets_the_login_form(serving) -> None:
    async with serving() as server, server.client("stranger", **BROWSER) as stranger:
        await server.start("ada")
        refused = await stranger.get("/?token=secret")
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "text/html; charset=utf-8"
        page = ParsedPage(refused.text)
        (field,) = page.all("input")
        assert (field["name"], field["type"]) == ("token", "password")
        assert "secret" not in refused.text
        for method, path in [("POST", "/"), ("GET", "/api/kernels"), ("GET", "/nowhere")]:
            response = await stranger.request(method, path)
            assert response.status_code == 403
            assert response.json()["reason"] == "Forbidden"


@pytest.mark.anyio
async def test_page_loads_only_its_own_files(serving) -> None:
    async with serving() as server:
        await server.start("ada")
        for user in ("ada", "bob", "stranger"):
            async with server.client(user, **BROWSER) as client:
                response = await client.get("/")
            rules = dict(
                rule.strip().split(" ", 1)
                for rule in response.headers["content-security-policy"].split(";")
            )
            assert rules.pop("default-src") == rules.pop("frame-ancestors") == "'none'"
            assert rules.pop("base-uri") == "'none'"
            assert set(rules.values()) == {"'self'"}
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cache-control"] == "no-store"
            page = ParsedPage(response.text)
            attributes = {name for _, found in page.elements for name in found}
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            assert page.all("style") == []
            for name in ("src", "href", "action"):
                links = [found[name] or "" for _, found in page.elements if name in found]
                assert all(re.fullmatch(r"dashboard/[a-z]+\.[a-z]+", link) for link in links)


@pytest.mark.anyio
async def test_only_the_files_of_the_page_are_public(serving) -> None:
    async with serving() as server, server.client() as stranger:
        for name, kind in zip(FILES, ["text/css", "text/javascript", "image/svg+xml"], strict=True):
            response = await stranger.get(f"/dashboard/{name}")
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(kind)
            assert response.headers["x-content-type-options"] == "nosniff"
            assert (await stranger.post(f"/dashboard/{name}")).status_code == 405
        for path in [
            "/dashboard/",
            "/dashboard/page.html",
            "/dashboard/style.css/",
            "/dashboard/style.css/../../api/kernels",
            "/dashboard/style.css%2f..%2f..%2fapi/kernels",
            "//dashboard/style.css",
            "/api/kernels/dashboard/style.css",
        ]:
            assert (path, (await stranger.get(path)).status_code) == (path, 403)


@pytest.mark.anyio
async def test_page_works_below_a_prefix(serving) -> None:
    async with serving() as server:
        transport = httpx.ASGITransport(app=Starlette(routes=[Mount("/hub", server.app)]))
        url = "http://server.test/hub/"
        async with httpx.AsyncClient(transport=transport, headers=BROWSER) as client:
            for query, status in (("?token=ada", 200), ("", 403)):
                response = await client.get(url + query)
                assert response.status_code == status
                page = ParsedPage(response.text)
                links = [link["href"] for link in page.all("link")] + [page.all("script")[0]["src"]]
                for link in links:
                    found = await client.get(response.url.join(link))
                    assert found.status_code == 200
            assert (await client.get("http://server.test/dashboard/style.css")).status_code == 404


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_page_shows_the_memory_of_a_real_kernel() -> None:
    finder = KernelFinder([IPykernelProvider()])
    with anyio.fail_after(GUARD_SECONDS):
        async with KernelPool(finder=finder) as pool:
            await pool.get("user")
            (before,) = pool.kernels()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.restart, "user")
                while (kernel := pool.kernels()[0]).state != "restarting":
                    await checkpoint()
                assert kernel.pid is None
            (kernel,) = pool.kernels()
            assert kernel.pid not in (None, before.pid)
            memory = psutil.Process(kernel.pid).memory_info().rss
            app = create_app(pool, finder=finder, authenticator=SingleUserToken("t"))
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                text = ParsedPage((await client.get("/?token=t")).text).text
    (shown,) = re.findall(r"^(\d+) MB$", text, re.MULTILINE)
    assert memory * 0.5 < int(shown) * 1_000_000 < memory * 1.5


@pytest.mark.anyio
async def test_page_and_api_tell_when_a_kernel_ends(serving) -> None:
    async with serving(idle_timeout=10_000, max_age=100) as server:
        kernel_id = await server.start("ada")
        async with server.client("ada") as ada:
            model = (await ada.get(f"/api/kernels/{kernel_id}")).json()
            page = ParsedPage((await ada.get("/")).text)
    assert model["end_reason"] == "expired"
    ends_at = datetime.fromisoformat(model["ends_at"])
    started = datetime.fromisoformat(model["process_started"])
    assert ends_at - started == timedelta(seconds=100)
    assert not [word for word in page.words if word.startswith("ends ")]
    async with serving(idle_timeout=None) as server:
        kernel_id = await server.start("ada")
        async with server.client("ada") as ada:
            model = (await ada.get(f"/api/kernels/{kernel_id}")).json()
    assert not model.keys() & {"ends_at", "end_reason"}


@pytest.mark.anyio
async def test_summary_has_the_limit_of_the_user(serving) -> None:
    tables = LimitTables(users={"ada": UserLimits(max_per_user=5), "bob": UserLimits(max_age=9)})
    async with serving({"limits": tables}, max_per_user=2, max_kernels=4) as server:
        for user, summary in [("ada", "1 of 4"), ("bob", "1 of 2"), ("root", "3 of 4")]:
            await server.start(user)
            async with server.client(user) as client:
                assert f"{summary} kernels" in (await client.get("/")).text


@pytest.mark.anyio
async def test_user_sees_their_own_documents_and_lost_kernels(serving) -> None:
    async with serving(max_per_user=2, restart=None) as server:
        for user in ("ada", "bob"):
            async with server.client(user) as client:
                session = {"path": f"{user}.ipynb", "type": "notebook"}
                assert (await client.post("/api/sessions", json=session)).status_code == 201
            dying = server.provider.kernels
            await server.start(user)
            dying[-1].die(-9)
            while len(server.pool.kernels(user)) > 1:
                await checkpoint()
        pages: dict[str, str] = {}
        for user in ("ada", "bob", "root"):
            async with server.client(user) as client:
                pages[user] = ParsedPage((await client.get("/")).text).text
    for user, seen in [("ada", ["ada"]), ("bob", ["bob"]), ("root", ["ada", "bob"])]:
        assert [name for name in ("ada", "bob") if f"{name}.ipynb" in pages[user]] == seen
        assert pages[user].count("signal 9 (SIGKILL)") == len(seen)
    assert "1 of 2 kernels" in pages["ada"]
    assert "2 of 50 kernels" in pages["root"]
