from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from kernelproto import (
    ClientClosed,
    ConnectionInfo,
    DiscoveryError,
    InvalidLaunchParameter,
    KernelFinder,
    KernelNotReady,
    LocalProtocolError,
    NoSuchKernel,
    RemoteProtocolError,
    Timeouts,
    connect_kernel,
    run_kernel,
    start_kernel,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60

# What a kernel that the scripted one is asked for tells of itself.
WHERE_AND_WHAT = """
variables = map(os.environ.get, ["ONE", "TWO"])
say(json.dumps([os.getcwd(), INFO["transport"], *variables]), parent)
"""


@pytest.fixture(autouse=True)
def scripted_kernel(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install ``spec/scripted``; see tests/integration/share."""
    monkeypatch.setenv("JUPYTER_PATH", str(Path(__file__).parent / "integration" / "share"))


async def description(**options) -> list[str | None]:
    async with run_kernel("scripted", **options) as kernel:
        result = await kernel.execute(WHERE_AND_WHAT)
        return json.loads(result.raise_for_error().stdout)


async def test_defaults() -> None:
    assert await description() == [os.getcwd(), "tcp", None, None]


async def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "the caller's")
    monkeypatch.setenv("TWO", "the caller's")
    assert await description(cwd=tmp_path, transport="ipc", env={"TWO": "mine"}) == [
        str(tmp_path),
        "ipc",
        "the caller's",
        "mine",
    ]


async def test_options_and_launch_params_are_the_same() -> None:
    params: Mapping[str, object] = {"transport": "ipc", "env": {"ONE": "param", "TWO": "param"}}
    before = str(params)
    _, *told = await description(launch_params=params)
    assert told == ["ipc", "param", "param"]
    _, *told = await description(launch_params=params, transport="tcp", env={"TWO": "mine"})
    assert told == ["tcp", "param", "mine"]
    assert str(params) == before


@pytest.mark.parametrize("env", [["ONE=1"], "ONE=1", None, 1])
async def test_launch_params_with_a_wrong_env(env: object) -> None:
    with pytest.raises(InvalidLaunchParameter, match="'env'"):
        await description(launch_params={"env": env}, env={"TWO": "mine"})


@pytest.mark.parametrize("name", ["scripted", "spec/scripted", "spec/SCRIPTED"])
async def test_names(name: str) -> None:
    async with run_kernel(name) as kernel:
        assert kernel.connection_info.kernel_name == "spec/scripted"


async def test_unknown_name() -> None:
    with pytest.raises(NoSuchKernel, match="'spec/script'") as caught:
        async with run_kernel("spec/script"):
            pytest.fail("it has started")
    assert caught.value.available[0] == "spec/scripted"
    with pytest.raises(NoSuchKernel):
        await start_kernel("spec/script")


async def test_finder() -> None:
    with pytest.raises(NoSuchKernel):
        async with run_kernel("scripted", finder=KernelFinder([])):
            pytest.fail("it has started")


async def test_every_kernel_has_an_id_of_its_own() -> None:
    async with run_kernel("scripted") as one, run_kernel("scripted") as two:
        assert one.kernel_id != two.kernel_id
        assert one.connection_info.key != two.connection_info.key


async def test_start_kernel_takes_the_options_of_run_kernel() -> None:
    kernel = await start_kernel(
        "scripted", env={"ONE": "mine"}, transport="ipc", timeouts=Timeouts(startup=GUARD_SECONDS)
    )
    result = await kernel.execute(WHERE_AND_WHAT)
    assert json.loads(result.stdout) == [os.getcwd(), "ipc", "mine", None]
    assert await kernel.shutdown() == 0


async def test_start_kernel_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(RuntimeError, match="new thread"):
        await start_kernel("scripted")


async def test_service_of_a_started_kernel_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """No task waits for it, so the reason is logged, and requests raise it."""
    broken = anyio.Event()

    async def wait() -> None:
        await broken.wait()
        raise OSError("the manager is broken")

    class Provider:
        id = "flawed"

        async def find_kernels(self):
            yield "kernel", {}

        async def launch(self, name, **options):
            info, manager = await KernelFinder.from_entrypoints().launch("scripted", **options)
            manager.wait = wait
            return info, manager

    kernel = await start_kernel("flawed/kernel", finder=KernelFinder([Provider()]))
    execution = kernel.execute("pause()")
    async with execution:
        broken.set()
        # It is interrupted, as busy code is at the end, or else told that the kernel is gone.
        with anyio.fail_after(GUARD_SECONDS), suppress(ClientClosed):
            assert (await execution).status == "error"
    with anyio.fail_after(GUARD_SECONDS):
        assert await kernel.shutdown() is None
    assert "'flawed/kernel' that was started has failed" in caplog.text
    assert "the manager is broken" in caplog.text


KINDS = {
    "info": lambda path: ConnectionInfo.from_json(path.read_bytes()),
    "mapping": lambda path: json.loads(path.read_bytes()),
    "mapping as jupyter_client has it": lambda path: {
        **json.loads(path.read_bytes()),
        "key": json.loads(path.read_bytes())["key"].encode(),
        "session": object(),
    },
    "path": str,
    "path-like": lambda path: path,
    "name": lambda path: path.name,
    "pattern": lambda path: "kernel-*.json",
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_connection(kind) -> None:
    async with run_kernel("scripted") as kernel:
        connection = kind(Path(kernel.manager.connection_file))
        async with connect_kernel(connection) as client:
            assert client.connection_info == kernel.connection_info
            await client.kernel_info()


BAD_FILES = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no ports": b"{}",
    "a port that is none": b'{"shell_port": 0}',
    "a port of the wrong type": b'{"shell_port": "1"}',
    "not UTF-8": b'{"key": "\xff"}',
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
async def test_file_that_is_no_connection_file(tmp_path: Path, no_leaks, content: bytes) -> None:
    tmp_path.joinpath("kernel.json").write_bytes(content)
    with pytest.raises(RemoteProtocolError):
        async with connect_kernel(tmp_path / "kernel.json"):
            pytest.fail("it is connected")


@pytest.mark.parametrize(
    "connection",
    [{}, {"shell_port": "1"}, {"shell_port": object()}],
    ids=["empty", "str", "object"],
)
async def test_mapping_that_is_no_connection_file(connection: Mapping[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        async with connect_kernel(connection):
            pytest.fail("it is connected")


@pytest.mark.parametrize("key", [b"secret\xff", "secret\ud800"], ids=["bytes", "str"])
async def test_mapping_whose_key_is_no_text(key: bytes | str) -> None:
    with pytest.raises(RemoteProtocolError, match=r"not a connection file: .*'key'") as caught:
        async with connect_kernel({"key": key}):
            pytest.fail("it is connected")
    errors = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert "secret" not in repr(errors)


async def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="no-such-file"):
        async with connect_kernel(tmp_path / "no-such-file.json"):
            pytest.fail("it is connected")


async def test_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="directory"):
        async with connect_kernel(tmp_path):
            pytest.fail("it is connected")


async def test_unknown_signature_scheme() -> None:
    async with run_kernel("scripted") as kernel:
        connection = json.loads(kernel.connection_info.to_json())
        connection["signature_scheme"] = "hmac-unknown"
        with pytest.raises((RemoteProtocolError, LocalProtocolError), match="hmac-unknown"):
            async with connect_kernel(connection):
                pytest.fail("it is connected")


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_nobody_answers(transport: str) -> None:
    async with run_kernel("scripted", transport=transport) as kernel:
        connection = kernel.connection_info
    with pytest.raises(KernelNotReady, match=r"kernel_info_reply") as caught:
        async with connect_kernel(connection, timeouts=Timeouts(startup=0.2)):
            pytest.fail("it is connected")
    assert (caught.value.phase, caught.value.seconds) == ("kernel_info_reply", 0.2)
    assert connection.key not in str(caught.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 100, "a..b"])
async def test_host_that_does_not_resolve(host: str) -> None:
    async with run_kernel("scripted", transport="tcp") as kernel:
        connection = json.loads(kernel.connection_info.to_json()) | {"ip": host}
    with pytest.raises(DiscoveryError, match=rf"host '{host}' cannot be found"):
        async with connect_kernel(connection, timeouts=Timeouts(startup=GUARD_SECONDS)):
            pytest.fail("it is connected")


async def test_host_with_a_name() -> None:
    async with run_kernel("scripted", transport="tcp", encryption="disabled") as kernel:
        connection = json.loads(kernel.connection_info.to_json()) | {"ip": "localhost"}
        async with connect_kernel(connection) as client:
            await client.kernel_info()


async def test_wrong_key() -> None:
    """The kernel does not answer clients without its key, so the error explains it."""
    async with run_kernel("scripted") as kernel:
        connection = json.loads(kernel.connection_info.to_json()) | {"key": "wrong"}
        with pytest.raises(KernelNotReady):
            async with connect_kernel(connection, timeouts=Timeouts(startup=0.2)):
                pytest.fail("it is connected")
