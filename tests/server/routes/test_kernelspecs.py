"""The kernel types, with their logos and scripts."""

from __future__ import annotations

import json

import pytest

from kernelproto import KernelFinder, KernelPool
from kernelproto.launch.providers import IPykernelProvider, KernelSpecProvider
from kernelproto.server import Settings, SingleUserToken, create_app
from kernelproto.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def kernelspec(tmp_path, monkeypatch):
    """Install a kernelspec ``sample``; return its folder."""
    folder = tmp_path / "share" / "kernels" / "sample"
    folder.mkdir(parents=True)
    spec = {"argv": ["x"], "display_name": "Sample", "language": "x", "env": {"SECRET": "1"}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    (folder / "logo-64x64.png").write_bytes(b"png")
    (folder / "kernel.js").write_text("define()")
    (folder / "notes.txt").write_text("nobody's business")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    return folder


@pytest.fixture
async def client(serving, kernelspec):
    async with serving() as server, FakeProvider() as fake:
        finder = KernelFinder([fake, KernelSpecProvider()])
        async with KernelPool(finder=finder, kernel_type="spec/sample", max_per_user=2) as pool:
            server.app = create_app(
                pool,
                finder=finder,
                authenticator=SingleUserToken("ada"),
                settings=Settings(kernel="spec/sample"),
            )
            async with server.client("ada") as client:
                yield client


async def test_kernel_types_have_the_names_of_jupyter(client) -> None:
    listed = (await client.get("/api/kernelspecs")).json()
    assert listed["default"] == "sample"
    sample = listed["kernelspecs"]["sample"]
    assert sample["name"] == "sample"
    assert sample["spec"]["display_name"] == "Sample"
    assert sample["spec"]["argv"] == ["x"]
    assert sample["resources"] == {
        "logo-64x64": "/kernelspecs/sample/logo-64x64.png",
        "kernel.js": "/kernelspecs/sample/kernel.js",
    }
    assert listed["kernelspecs"]["fake/kernel"]["spec"]["language"] == "fake"
    assert (await client.get("/api/kernelspecs/sample")).json() == sample
    assert (await client.get("/api/kernelspecs/fake%2Fkernel")).json()["name"] == "fake/kernel"
    assert (await client.get("/api/kernelspecs/nonsense")).status_code == 404


async def test_environment_of_a_kernelspec_is_not_public(client) -> None:
    assert "SECRET" not in (await client.get("/api/kernelspecs")).text


async def test_resources(client) -> None:
    logo = await client.get("/kernelspecs/sample/logo-64x64.png")
    assert (logo.status_code, logo.content) == (200, b"png")
    assert logo.headers["content-type"] == "image/png"
    assert logo.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/kernelspecs/sample/kernel.js")).text == "define()"


@pytest.mark.parametrize(
    "path",
    [
        "sample/notes.txt",
        "sample/kernel.json",
        "sample/..%2f..%2f..%2fsecret.txt",
        "sample/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "..%2f..%2fsecret.txt",
        "sample/..\\..\\secret.txt",
        "sample/%2fetc%2fpasswd",
        "sample/logo-64x64.png%00.txt",
        "sample/",
        "nonsense/logo-64x64.png",
    ],
)
async def test_other_files_are_not_found(client, path: str) -> None:
    response = await client.get(f"/kernelspecs/{path}")
    assert response.status_code == 404
    assert set(response.json()) == {"message", "reason"}


async def test_kernel_that_cannot_be_launched_here(client, kernelspec) -> None:
    session = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "fake/kernel"}}
    model = (await client.post("/api/sessions", json=session)).json()
    spec = {"argv": ["x", "{connection_file}"], "metadata": {"kernel_provisioner": "docker"}}
    (kernelspec / "kernel.json").write_text(json.dumps(spec))
    assert "sample" in (await client.get("/api/kernelspecs")).json()["kernelspecs"]
    refused = await client.post("/api/kernels", json={"name": "sample"})
    assert (refused.status_code, "a launcher that" in refused.json()["message"]) == (502, True)
    change = {"kernel": {"name": "sample"}}
    refused = await client.patch(f"/api/sessions/{model['id']}", json=change)
    assert (refused.status_code, "a launcher that" in refused.json()["message"]) == (502, True)
    # The kernel that the start would have replaced still runs.
    (left,) = (await client.get("/api/sessions")).json()
    assert left["kernel"]["id"] == model["kernel"]["id"]


@pytest.mark.parametrize("installed", [False, True])
async def test_python3_is_always_listed(serving, kernelspec, monkeypatch, installed: bool) -> None:
    if installed:
        kernelspec.rename(kernelspec.with_name("python3"))
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [])
    monkeypatch.setattr("jupyter_core.paths.SYSTEM_JUPYTER_PATH", [])
    async with serving() as server:
        finder = KernelFinder([IPykernelProvider(), KernelSpecProvider()])
        server.app = create_app(
            KernelPool(finder=finder),
            finder=finder,
            authenticator=SingleUserToken("ada"),
            settings=Settings(kernel="pyimport/kernel"),
        )
        async with server.client("ada") as client:
            listed = (await client.get("/api/kernelspecs")).json()["kernelspecs"]
            assert (await client.get("/api/kernelspecs/python3")).json() == listed["python3"]
    own = listed["pyimport/kernel"]["spec"]
    assert (listed["python3"]["spec"] == own) is not installed
    assert listed["python3"]["name"] == "python3"
