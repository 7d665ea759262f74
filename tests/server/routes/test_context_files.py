"""The files of contexts, with fake kernels and without a network."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.exceptions import HTTPException

from kernelproto.server.contexts import files
from kernelproto.server.contexts.files import byte_range

network = pytest.mark.usefixtures("no_leaks")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs descriptors of folders")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "here").mkdir()
    (tmp_path / "secret").write_text("secret")
    return root


class Body(httpx.AsyncByteStream):
    """The body of a request; Trio reports the generator of httpx if it is not read to its end."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = iter(parts)

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        for part in self._parts:
            return part
        raise StopAsyncIteration


class SlowBody(Body):
    """A body whose end does not arrive yet."""

    def __init__(self) -> None:
        super().__init__([b"x" * 300_000])
        self.arrived = anyio.Event()
        self.may_end = anyio.Event()

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            self.arrived.set()
            await self.may_end.wait()
            raise


async def put(client: httpx.AsyncClient, path: str, body: list[bytes] | Body) -> int:
    request = client.build_request("PUT", path)
    request.stream = Body(body) if isinstance(body, list) else body
    return (await client.send(request)).status_code


async def start(client, cwd: str = "here") -> str:
    response = await client.post("/api/contexts", json={"cwd": cwd})
    assert response.status_code == 201, response.text
    return f"/api/contexts/{response.json()['id']}/files"


@network
@pytest.mark.anyio
async def test_life_of_a_file(serving, root: Path) -> None:
    async with serving({"root_dir": str(root)}) as server, server.client("ada") as ada:
        path = await start(ada)
        data = os.urandom(600_000)
        assert (await ada.put(f"{path}/sub/a%20b.bin", content=data)).status_code == 204
        assert (root / "here" / "sub" / "a b.bin").read_bytes() == data
        listed = (await ada.get(path)).json()
        assert listed == {"files": [{"name": "sub/a b.bin", "size": 600_000}], "complete": True}

        whole = await ada.get(f"{path}/sub/a%20b.bin")
        assert (whole.status_code, whole.content) == (200, data)
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["content-disposition"] == "attachment"
        headers = {"range": "bytes=10-19"}
        part = await ada.get(f"{path}/sub/a%20b.bin", headers=headers)
        assert (part.status_code, part.content) == (206, data[10:20])
        assert part.headers["content-range"] == "bytes 10-19/600000"
        beyond = await ada.get(f"{path}/sub/a%20b.bin", headers={"range": "bytes=600000-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */600000")
        head = await ada.head(f"{path}/sub/a%20b.bin")
        assert (head.status_code, head.headers["content-length"]) == (200, "600000")

        assert (await ada.put(f"{path}/sub/a%20b.bin", content=b"")).status_code == 204
        assert (await ada.get(f"{path}/sub/a%20b.bin")).content == b""
        assert (await ada.delete(f"{path}/sub/a%20b.bin")).status_code == 204
        for method in ("GET", "DELETE"):
            response = await ada.request(method, f"{path}/sub/a%20b.bin")
            assert response.status_code == 404
        assert (await ada.get(path)).json()["files"] == []


@network
@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", ["..%2fsecret", "%2e%2e/%2e%2e/secret", "%2fetc%2fpasswd", "a%00", "up/secret", "link"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_files_outside_are_out_of_reach(serving, root: Path, name: str, method: str) -> None:
    (root / "here" / "up").symlink_to(root.parent)
    (root / "here" / "link").symlink_to(root.parent / "secret")
    async with serving({"root_dir": str(root)}) as server, server.client("ada") as ada:
        path = await start(ada)
        response = await ada.request(method, f"{path}/{name}")
        # A link itself is replaced or removed, not followed.
        assert response.status_code == (204 if name == "link" and method != "GET" else 400)
    assert (root.parent / "secret").read_text() == "secret"


@network
@pytest.mark.anyio
async def test_folder_that_was_replaced_stays_the_same(serving, root: Path) -> None:
    async with serving({"root_dir": str(root)}) as server, server.client("ada") as ada:
        path = await start(ada)
        (root / "here").rename(root / "there")
        (root / "here").symlink_to(root.parent)
        assert (await ada.get(f"{path}/secret")).status_code == 404
        assert (await ada.put(f"{path}/new", content=b"1")).status_code == 204
        assert (root / "there" / "new").exists()


@network
@pytest.mark.anyio
async def test_files_of_other_users_are_not_found(serving, root: Path) -> None:
    async with serving({"root_dir": str(root)}) as server, server.client("ada") as ada:
        path = await start(ada)
        await ada.put(f"{path}/a", content=b"1")
        for user in ("bob", "root"):
            async with server.client(user) as other:
                for method, name in [("GET", ""), ("GET", "/a"), ("PUT", "/a"), ("DELETE", "/a")]:
                    response = await other.request(method, path + name)
                    assert response.status_code == 404
                    assert "there is no context" in response.json()["message"]
        assert (await ada.get(f"{path}/a")).content == b"1"


@network
@pytest.mark.anyio
async def test_uploads_are_limited(serving, root: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "MOST_FILE_BYTES", 10)
    monkeypatch.setattr(files, "MOST_FOLDER_BYTES", 15)
    monkeypatch.setattr(files, "MOST_FILES", 2)

    async with serving({"root_dir": str(root)}) as server, server.client("ada") as ada:
        path = await start(ada)
        for parts in ([b"x" * 11], [b"x"] * 11):
            assert await put(ada, f"{path}/large", parts) == 413
        assert os.listdir(root / "here") == []
        assert (await ada.put(f"{path}/a", content=b"x" * 10)).status_code == 204
        assert await put(ada, f"{path}/b", [b"x" * 6]) == 413
        assert (await ada.put(f"{path}/b", content=b"x" * 5)).status_code == 204
        response = await ada.put(f"{path}/c", content=b"")
        assert (response.status_code, response.json()["message"]) == (
            413,
            "the folder has 2 files or more: remove some first",
        )
        assert (await ada.put(f"{path}/a", content=b"y")).status_code == 204
        (root / "here" / "c").touch()
        listed = (await ada.get(path)).json()
        assert (len(listed["files"]), listed["complete"]) == (2, False)


@network
@pytest.mark.anyio
async def test_slow_uploads_end_and_are_limited(serving, root: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "MOST_UPLOADS", 1)
    statuses = []

    async def upload(path: str, body: Body) -> None:
        statuses.append(await put(ada, path, body))

    async with serving({"root_dir": str(root)}) as server, server.client("ada") as ada:
        path = await start(ada)
        async with anyio.create_task_group() as tasks:
            body = SlowBody()
            tasks.start_soon(upload, f"{path}/a", body)
            await body.arrived.wait()
            assert await put(ada, f"{path}/b", []) == 429
            assert (await ada.get(path)).json()["files"] == []  # no half of a file
            body.may_end.set()
        monkeypatch.setattr(files, "UPLOAD_SECONDS", 0.01)
        await upload(f"{path}/c", SlowBody())
        assert statuses == [204, 408]
        assert os.listdir(root / "here") == ["a"]


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=5-2", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-99999", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_parts_of_a_file(header: str | None, part: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0", "bytes=99-100"])
def test_parts_beyond_a_file(header: str) -> None:
    with pytest.raises(HTTPException) as caught:
        byte_range(header, 10)
    assert (caught.value.status_code, caught.value.headers) == (
        416,
        {"Content-Range": "bytes */10"},
    )
