"""The program of the host as the first process of a pod, reached over tcp with TLS."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kernelproto.client import open_client
from kernelproto.exceptions import KernelInUse
from kernelproto.host.launch import adopt_hosted, start_on
from kernelproto.interfaces import KernelHandle
from kernelproto.kubernetes.api import Api
from kernelproto.kubernetes.keys import KeyPair, client_context, new_key_pair
from kernelproto.kubernetes.manager import Pod, PodConnect
from kernelproto.launch.host_program import archive
from kernelproto.launch.programs.host.tls import Handshakes, TlsSocket, server_context

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 15

KERNEL_ID = "5f0d4a9e-36c5-4a0c-8f4f-7a4ed6d1f1f4"
ADDRESS = "127.93.0.1"
COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class PodProcess:
    """The process of a pod."""

    def __init__(self, folder: Path) -> None:
        self.pair = new_key_pair(KERNEL_ID)
        with socket.socket() as free:
            free.bind((ADDRESS, 0))
            self.address: tuple[str, int] = free.getsockname()
        keys = folder / "keys"
        keys.mkdir()
        (keys / "tls.crt").write_text(self.pair.certificate)
        (keys / "tls.key").write_text(self.pair.key)
        program = folder / "host.pyz"
        program.write_bytes(archive())
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                program,
                folder / "host",
                str(self.address[1]),
                keys,
            ],
            env={**os.environ, "POD_IP": ADDRESS, "OF_THE_POD": "yes"},
            cwd=folder,
        )

    def connect(self, pair: KeyPair | None = None) -> PodConnect:
        # The API of the cluster cannot be reached, so only the host tells about the kernel.
        api = Api("/nowhere", None, None)
        pod = Pod(api, "kernelproto-test", "uid")
        return PodConnect(pod, self.address, client_context(pair or self.pair))

    async def wait_until_it_listens(self) -> PodConnect:
        connect = self.connect()
        with anyio.fail_after(GUARD_SECONDS):
            while True:
                try:
                    await connect.prepare()
                    return connect
                except ConnectionError:
                    await anyio.sleep(0.02)


@pytest.fixture
def pod(no_leaks: None) -> Iterator[PodProcess]:
    with tempfile.TemporaryDirectory(prefix="kp-") as folder:
        pod = PodProcess(Path(folder))
        try:
            yield pod
            pod.process.wait(GUARD_SECONDS)
        finally:
            pod.process.kill()
            pod.process.wait()


def start_request(*argv: str) -> dict[str, object]:
    return {
        "op": "start",
        "argv": argv or COMMAND,
        "env": {"OF_THE_LAUNCH": "yes"},
        "inherits": True,
        "linger": 30,
        "parent_variable": False,
        "connection_info": {"key": "k" * 64, "signature_scheme": "hmac-sha256"},
        "facts": {"kernel_type": "kubernetes/test", "command": argv or COMMAND},
    }


HANDLE = KernelHandle(
    host="kubernetes",
    kernel_type="kubernetes/test",
    kernel_id=KERNEL_ID,
    place={"kernel": KERNEL_ID, "folder": ""},
)


async def test_kernel_in_a_pod_process(pod: PodProcess) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        connect = await pod.wait_until_it_listens()
        manager = await start_on(connect, HANDLE, start_request())
        async with open_client(
            manager.connection_info, open_channels=manager.open_channels
        ) as client:
            await client.wait_for_ready()
            code = "import os; print(os.environ['OF_THE_POD'], os.environ['OF_THE_LAUNCH'])"
            assert (await client.execute(code)).stdout == "yes yes\n"
            size = 3_000_000
            result = await client.execute(f"print('x' * {size})")
            assert len(result.stdout) == size + 1
            result = await client.execute(f"text = {'y' * size!r}; len(text)")
            assert result.text == str(size)
        await manager.cleanup()
    assert await anyio.to_thread.run_sync(pod.process.wait) == 0


async def test_outputs_wait_while_no_program_is_connected(pod: PodProcess) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        connect = await pod.wait_until_it_listens()
        manager = await start_on(connect, HANDLE, start_request())
        async with open_client(
            manager.connection_info, open_channels=manager.open_channels
        ) as client:
            await client.wait_for_ready()
        with pytest.raises(KernelInUse):
            await adopt_hosted(HANDLE, pod.connect())
        await manager.detach()
        info, adopted = await adopt_hosted(HANDLE, pod.connect())
        assert info == manager.connection_info
        await adopted.cleanup()


async def test_only_the_key_of_the_pod_opens_the_host(pod: PodProcess) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        mine = await pod.wait_until_it_listens()
        with pytest.raises(ConnectionError, match="its host does not answer"):
            await pod.connect(new_key_pair(KERNEL_ID)).prepare()
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stranger.check_hostname = False
        stranger.verify_mode = ssl.CERT_NONE
        stream = await anyio.connect_tcp(*pod.address, tls=True, ssl_context=stranger)
        # In TLS 1.3 the refusal of the host arrives with the first bytes.
        with pytest.raises(ssl.SSLError, match=r"certificate required|unknown ca"):
            await stream.receive()
        await anyio.aclose_forcefully(stream)
        plain = await anyio.connect_tcp(*pod.address)
        await plain.send(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            assert b"version" not in await plain.receive()
        await plain.aclose()
        await mine.release()


async def test_sigterm_ends_the_host_with_its_kernel(pod: PodProcess) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        connect = await pod.wait_until_it_listens()
        manager = await start_on(connect, HANDLE, start_request("/bin/sleep", "1000"))
        assert await manager.is_alive()
        pod.process.terminate()
        assert await anyio.to_thread.run_sync(pod.process.wait) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(manager.pid, 0)
        await manager.link.aclose()


async def test_command_that_cannot_be_run_is_named(pod: PodProcess) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        connect = await pod.wait_until_it_listens()
        with pytest.raises(FileNotFoundError, match="/nowhere/kernel"):
            await start_on(connect, HANDLE, start_request("/nowhere/kernel"))


def test_handshake_has_a_time_limit_and_a_number(tmp_path: Path) -> None:
    pair = new_key_pair("a")
    (tmp_path / "tls.crt").write_text(pair.certificate)
    (tmp_path / "tls.key").write_text(pair.key)
    done: list[TlsSocket] = []
    ends: list[socket.socket] = []
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", 0)) as server:
        handshakes = Handshakes(server_context(str(tmp_path)), selector, done.append)
        for _ in range(101):
            ends.append(socket.create_connection(server.getsockname()))
            accepted, _ = server.accept()
            accepted.setblocking(False)
            handshakes.begin(accepted)
        assert len(selector.get_map()) == 100
        assert ends[-1].recv(1) == b""
        due = handshakes.due()
        assert due is not None
        handshakes.look(due + 100)
        assert handshakes.due() is None
        assert len(selector.get_map()) == 0
        assert ends[0].recv(1) == b""
    for end in ends:
        end.close()
    assert done == []
