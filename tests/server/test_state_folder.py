"""Where the registry of a server is, and that one server at a time uses it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernelproto import extras
from kernelproto.exceptions import InvalidSettings, RegistryError
from kernelproto.server import Settings
from kernelproto.server.isolation_settings import IsolationSettings
from kernelproto.server.limits import KernelLimits, LimitTables
from kernelproto.server.state_folder import find_state_folder, open_state_folder

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are adopted on Linux only"),
]

_NOBODY = 65534

SERVICE = {"STATE_DIRECTORY": "/var/lib/kernels:/var/lib/other"}


@pytest.mark.parametrize(
    ("settings", "environ", "folder"),
    [
        ({}, {}, None),
        ({}, SERVICE, "/var/lib/kernels/.kernelproto"),
        ({"state_dir": "/state"}, {}, "/state"),
        ({"state_dir": "/state"}, SERVICE, "/state"),
        ({"keep_kernels": "off"}, SERVICE, None),
        ({"warm": 1}, SERVICE, None),
        ({"warm": 1}, {}, None),
        ({"keep_kernels": "on"}, SERVICE, "/var/lib/kernels/.kernelproto"),
        ({"registry": "postgresql://a/b"}, SERVICE, "/var/lib/kernels/.kernelproto"),
    ],
)
def test_folder(settings: dict[str, Any], environ: dict[str, str], folder: str | None) -> None:
    assert find_state_folder(Settings(**settings), environ) == folder


def test_folder_without_a_service() -> None:
    found = find_state_folder(Settings(keep_kernels="on"), {})
    assert found == os.path.join(os.environ["JUPYTER_DATA_DIR"], "kernelproto", "server")


@pytest.mark.parametrize(
    "settings",
    [
        {"keep_kernels": "on", "warm": 1},
        {"state_dir": "/state", "warm": 1},
        {"registry": "postgresql://a/b", "warm": 1},
        {
            "keep_kernels": "on",
            "limits": LimitTables(kernels={"spec/a": KernelLimits(warm=1)}),
        },
    ],
)
def test_warm_kernels_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings, match=r"keep_kernels: .*remove warm"):
        find_state_folder(Settings(**settings), {})


def test_folder_without_a_use_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="state_dir: nothing is stored"):
        Settings(keep_kernels="off", state_dir="/state")


def test_linger_without_a_use_is_refused() -> None:
    for settings in ({}, {"keep_kernels": "off"}):
        with pytest.raises(InvalidSettings, match="linger_seconds: kernels end with the server"):
            find_state_folder(Settings(linger_seconds=60, **settings), {})
    assert find_state_folder(Settings(linger_seconds=60, state_dir="/state"), {}) == "/state"
    isolation = IsolationSettings(uids="200000-200999", folder="/homes")
    with pytest.raises(InvalidSettings, match="linger_seconds: no host runs the kernels"):
        Settings(linger_seconds=60, isolate="users", isolation=isolation, state_dir="/state")


def test_registry_without_a_use_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="registry: nothing is stored"):
        Settings(keep_kernels="off", registry="postgresql://a/b")
    with pytest.raises(InvalidSettings, match="registry: write postgresql://") as caught:
        Settings(registry="mysql://ada:secret@a/b")
    assert "secret" not in str(caught.value)


@pytest.mark.anyio
async def test_registry_that_cannot_be_used(tmp_path: Path, monkeypatch) -> None:
    async def refuse(url: str, words: str, kind: type[Exception] = InvalidSettings) -> None:
        with pytest.raises(kind, match=words):
            async with open_state_folder(str(tmp_path / "state"), url):
                pytest.fail("it was opened")

    await refuse("postgresql://[a/b", "registry: the URL of the registry is not valid")
    await refuse("postgresql://127.0.0.1:1/b", "registry on 127.0.0.1 .* cannot", RegistryError)
    monkeypatch.setitem(extras.EXTRAS, "postgresql", ("no_such_module",))
    await refuse("postgresql://a/b", "registry: no_such_module cannot be imported: pip install")


async def refused(path: Path, words: str, kind: type[Exception] = InvalidSettings) -> None:
    with pytest.raises(kind, match=words):
        async with open_state_folder(str(path)):
            pytest.fail("it was opened")


@pytest.mark.anyio
async def test_one_server_uses_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "state"
    async with open_state_folder(str(path)) as registry:
        assert await registry.kernels() == []
        assert path.stat().st_mode & 0o777 == 0o700
        await refused(path, f"state_dir: the server with process id {os.getpid()} uses")
    async with open_state_folder(str(path)):
        pass


@pytest.mark.anyio
async def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    await refused(open_to_all, "state_dir: other users may write")
    (tmp_path / "file").touch()
    await refused(tmp_path / "file" / "state", "state_dir: cannot write to .*Not a directory")


@pytest.mark.anyio
async def test_damaged_registry_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    (path / "kernels.sqlite").write_bytes(b"nonsense " * 1000)
    await refused(path, "it is damaged: move it away", RegistryError)
    assert (path / "kernels.sqlite").read_bytes() == b"nonsense " * 1000


@pytest.mark.anyio
async def test_read_only_folder() -> None:
    with read_only_folder() as path:
        await refused(path, "state_dir: cannot write to .*Permission denied")


@contextmanager
def read_only_folder() -> Generator[Path]:
    """Give a folder, and run the block as its owner, who is not root."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent, "state")
        path.mkdir(mode=0o500)
        if os.geteuid() != 0:
            yield path
            return
        for each in (Path(parent), path):
            os.chown(each, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
        try:
            yield path
        finally:
            os.seteuid(0)
