"""The dashboard as HTML. tests/integration/browser/ uses it in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import anyio
import httpx
import msgspec
import psutil
import pytest
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.routing import Mount

from kernelproto import KernelFinder, KernelPool
from kernelproto.interfaces import User
from kernelproto.launch.providers import IPykernelProvider
from kernelproto.pool import KernelEnd, LostKernel, PooledKernel
from kernelproto.server import SingleUserToken, create_app
from kernelproto.server.dashboard.page import Html, HtmlTemplate, View, ago, amount, render
from kernelproto.server.limits import LimitTables, UserLimits
from kernelproto.server.telemetry.usage import Sample, Usage, UsageMeter, measure, usage_between

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = ["style.css", "script.js", "icon.svg"]
EVIL = "<script>alert(1)</script>\"'&"


class ParsedPage(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


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


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def kernel_of(user: str, **facts: object) -> PooledKernel:
    known = {
        "kernel_id": "0" * 36,
        "user": user,
        "name": "x",
        "kernel_type": f"spec/{EVIL}",
        "state": "busy",
        "connections": 3,
        "started_at": NOW,
        "last_activity": NOW,
        "pid": 17,
    }
    return msgspec.convert({**known, **facts}, PooledKernel)


def view_of(*kernels: PooledKernel, **facts: Any) -> View:
    view = View(
        user=User("ada"),
        kernels=kernels,
        limit=50,
        lost=[],
        documents={},
        usage={17: Usage(2_500_000_000, 1.25)},
        now=NOW,
        here="http://x/",
        version="1.0",
    )
    return view._replace(**facts)


def test_page_shows_the_facts_of_a_kernel() -> None:
    view = view_of(kernel_of("ada", last_death=f"signal 9 {EVIL}"))
    page = ParsedPage(render(view))
    assert {EVIL, "busy", "3", "just now", "2.5 GB", "125%"} <= set(page.words)
    assert f"died: signal 9 {EVIL}" in page.words
    assert "1 of 50 kernels \N{MIDDLE DOT} 1 busy \N{MIDDLE DOT} 2.5 GB" in page.words
    (time,) = page.all("time")
    assert time == {"datetime": "2026-01-01T00:00:00Z", "title": "2026-01-01 00:00:00 UTC"}
    unknown = ParsedPage(render(view._replace(usage={})))
    assert unknown.words.count("\N{EN DASH}") == 2


def test_template_escapes_all_values_but_html() -> None:
    template = HtmlTemplate('<p title="$text">$text $html $number</p>')
    filled = template.fill(text="<'\"&>", html=Html("<b>&amp;</b>"), number=1)
    escaped = "&lt;&#x27;&quot;&amp;&gt;"
    assert filled == f'<p title="{escaped}">{escaped} <b>&amp;</b> 1</p>'
    assert HtmlTemplate("$inner").fill(inner=filled) == filled
    assert HtmlTemplate("$inner").fill(inner=filled[:3]) == "&lt;p "  # a part of it is plain text


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        ([f"a/{EVIL}.ipynb"], f"a/{EVIL}.ipynb"),
        (["a.ipynb", "b.ipynb", "c.ipynb"], "a.ipynb and 2 more"),
        (["x" * 4000 + "/a.ipynb"], "\N{HORIZONTAL ELLIPSIS}" + "x" * 112 + "/a.ipynb"),
    ],
)
def test_page_names_the_document_of_a_kernel(paths: list[str], shown: str) -> None:
    documents = {("ada", "0" * 36): paths, ("bob", "0" * 36): ["other"]}
    page = ParsedPage(render(view_of(kernel_of("ada"), documents=documents)))
    assert shown in page.words
    assert "other" not in page.text


@pytest.mark.parametrize(
    ("left", "limit", "reason", "warning"),
    [
        (180.5, 1800, "culled", None),
        (180, 1800, "culled", "ends in 3 min unless used"),
        (59.9, 1800, "culled", "ends in 59 s unless used"),
        (0.9, 1800, "culled", "ends now unless used"),
        (-5, 1800, "culled", "ends now unless used"),
        (301, 86_400, "expired", None),
        (299, 86_400, "expired", "ends in 4 min (maximum age)"),
        (6, 60, "culled", "ends in 6 s unless used"),
    ],
)
def test_page_warns_before_a_kernel_ends(
    left: float, limit: float, reason: str, warning: str | None
) -> None:
    end = {"at": NOW + timedelta(seconds=left), "reason": reason, "limit": limit}
    page = ParsedPage(render(view_of(kernel_of("ada", end=msgspec.convert(end, KernelEnd)))))
    warnings = [word for word in page.words if word.startswith("ends ")]
    assert warnings == ([] if warning is None else [warning])


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


def test_page_shows_lost_kernels_for_a_day() -> None:
    lost = [
        LostKernel(
            kernel_id=f"{number:036}",
            user=user,
            kernel_type=f"spec/{EVIL}",
            death=f"signal 9 {EVIL}",
            died_at=NOW - age,
        )
        for number, (user, age) in enumerate(
            [("ada", timedelta(minutes=3)), (EVIL, timedelta(hours=2)), ("ada", timedelta(days=1))]
        )
    ]
    page = ParsedPage(render(view_of(lost=lost)))
    text = " ".join(page.text.split())
    assert f"{EVIL} 00000000: signal 9 {EVIL}, 3 min ago" in text
    assert f"{EVIL} 00000000 of {EVIL}: signal 9 {EVIL}, 2 h ago" in text
    assert len(page.all("li")) == 2
    many = ParsedPage(render(view_of(lost=lost[:1] * 1000)))
    assert len(many.all("li")) == 20


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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "just now"),  # the clock was set back
        (9.9, "just now"),
        (10, "10 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 day ago"),
        (1e6, "11 days ago"),
    ],
)
def test_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 MB"), (85_400_000, "85 MB"), (999_400_000, "999 MB"), (999_600_000, "1.0 GB")],
)
def test_amount(size: int, words: str) -> None:
    assert amount(size) == words


BEFORE = Sample(began=100.0, at=10.0, memory=5, cpu_seconds=1.0)


@pytest.mark.parametrize(
    ("before", "after", "cpu"),
    [
        (None, BEFORE, None),
        (BEFORE, BEFORE._replace(at=12.0, cpu_seconds=2.0), 0.5),
        (BEFORE, BEFORE._replace(at=12.0, cpu_seconds=9.0), 4.0),
        (BEFORE, BEFORE._replace(at=12.0, cpu_seconds=0.5), 0.0),
        (BEFORE, BEFORE._replace(at=71.0, cpu_seconds=9.0), None),
        (BEFORE, BEFORE._replace(at=12.0, began=101.0), None),
        (BEFORE, BEFORE, None),
    ],
)
def test_usage_between_samples(before: Sample | None, after: Sample, cpu: float | None) -> None:
    assert usage_between(before, after) == Usage(5, cpu)


PARENT = """
import subprocess, sys
ballast = "x = b'x' * 50_000_000; print(flush=True); input()"
worker = "import time\\nwhile time.process_time() < 0.3: pass"
pipe = subprocess.PIPE
with subprocess.Popen([sys.executable, "-c", ballast], stdin=pipe, stdout=pipe) as child:
    child.stdout.readline()
    print(flush=True)
    input()
    subprocess.run([sys.executable, "-c", worker])
    print(flush=True)
    input()
"""


def test_measurement_includes_child_processes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it raises EOFError at the end
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        before = measure([parent.pid])[parent.pid]
        (ballast,) = psutil.Process(parent.pid).children()
        assert before.memory > ballast.memory_info().rss > 50_000_000
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        after = measure([parent.pid])[parent.pid]
        assert after.began == before.began
        assert after.cpu_seconds - before.cpu_seconds > 0.25  # of a child that has ended
    assert measure([parent.pid]) == {}


@pytest.mark.anyio
async def test_concurrent_reads_share_one_measurement() -> None:
    meter = UsageMeter(fresh_seconds=GUARD_SECONDS)
    readings: list[object] = []

    async def read() -> None:
        readings.append(await meter.read([os.getpid()]))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(read)
    assert len({id(reading) for reading in readings}) == 1
    usage = (await meter.read([]))[os.getpid()]
    assert usage.memory > 0
    assert usage.cpu is None
    assert meter.cpu_seconds > 0


@pytest.mark.anyio
async def test_meter_measures_the_use_of_processors() -> None:
    meter = UsageMeter(fresh_seconds=0)
    usage = Usage(0, None)
    with anyio.fail_after(GUARD_SECONDS):
        while not usage.cpu:
            usage = (await meter.read([os.getpid()]))[os.getpid()]
        seconds = meter.cpu_seconds
        await meter.read([])  # the meter forgets the process
        assert meter.cpu_seconds == seconds
    assert 0 < usage.cpu < 1000
