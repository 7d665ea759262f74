from __future__ import annotations

import pickle
from collections.abc import Iterator

import anyio
import msgspec
import pytest
import zmq
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import LocalProtocolError
from kernelproto.transport import curve, open_channels
from kernelproto.transport.curve import CurveKeys, has_curve, new_curve_keys
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60

OTHERS = new_curve_keys()


@pytest.fixture
def encrypted(info: ConnectionInfo) -> ConnectionInfo:
    keys = new_curve_keys()
    return msgspec.structs.replace(info, curve_publickey=keys.public, curve_secretkey=keys.secret)


@pytest.fixture
def encrypted_kernel(kernel, encrypted) -> Iterator:
    kernel.info = encrypted
    kernel.bind()
    return kernel


def without_secret(info: ConnectionInfo) -> ConnectionInfo:
    """Return all that a client needs."""
    return msgspec.structs.replace(info, curve_secretkey="")


@pytest.mark.anyio
class TestEncryptedKernel:
    async def test_talks_on_every_channel(self, encrypted_kernel, encrypted) -> None:
        kernel, arrived, all_here = encrypted_kernel, [], anyio.Event()

        def deliver(channel: str, frames: list[bytes]) -> None:
            arrived.append((channel, frames))
            if len(arrived) == len(CHANNEL_NAMES):
                all_here.set()

        with anyio.fail_after(GUARD_SECONDS):
            async with open_channels(
                without_secret(encrypted), deliver, identity=b"client"
            ) as channels:
                assert kernel.receive("iopub") == [b"\x01"]
                kernel.send("iopub", [b"topic", b"iopub"])
                for name in ("shell", "stdin", "control"):
                    await channels.send(name, [b"request"])
                    assert kernel.receive(name) == [b"client", b"request"]
                    kernel.send(name, [b"client", name.encode()])
                await channels.send("hb", [b"", b"hb"])
                kernel.send("hb", kernel.receive("hb"))
                await all_here.wait()
        assert sorted((name, frames[-1].decode()) for name, frames in arrived) == [
            (name, name) for name in sorted(CHANNEL_NAMES)
        ]

    @pytest.mark.parametrize("publickey", ["", OTHERS.public], ids=["no key", "another key"])
    async def test_neither_hears_nor_answers(self, encrypted_kernel, encrypted, publickey) -> None:
        kernel, delivered, arrived = encrypted_kernel, [], anyio.Event()
        stranger = msgspec.structs.replace(encrypted, curve_publickey=publickey, curve_secretkey="")

        def take(channel: str, frames: list[bytes]) -> None:
            delivered.append((channel, frames))

        async with (
            open_channels(stranger, take, identity=b"stranger") as strangers,
            open_channels(encrypted, lambda *_: arrived.set(), identity=b"client") as channels,
            background_tasks() as tasks,
        ):
            # After libzmq was refused it has no peer, and sending waits without end.
            for name in ("shell", "stdin", "control"):
                tasks.start_soon(strangers.send, name, [b"let me in"])
            tasks.start_soon(strangers.send, "hb", [b"", b"let me in"])
            await anyio.wait_all_tasks_blocked()
            # Whoever came first would be heard first, were they heard.
            await channels.send("shell", [b"hello"])
            assert kernel.receive("shell") == [b"client", b"hello"]
            assert kernel.receive("iopub") == [b"\x01"]
            for number in range(100):
                kernel.send("iopub", [b"topic", b"%d" % number])
            with anyio.fail_after(GUARD_SECONDS):
                await arrived.wait()
            for _ in range(10):
                await checkpoint()
            assert delivered == []
            for name in CHANNEL_NAMES:
                assert kernel.nothing_more(name)

    async def test_pyzmq_that_cannot_encrypt(self, encrypted, monkeypatch) -> None:
        monkeypatch.setattr(curve, "has_curve", lambda: False)
        with pytest.raises(LocalProtocolError, match="without CurveZMQ"):
            async with open_channels(encrypted, lambda *_: None, identity=b"client"):
                raise AssertionError("it was opened")


def test_every_pair_is_new() -> None:
    assert has_curve()
    first, second = new_curve_keys(), new_curve_keys()
    assert len({*first, *second}) == 4
    assert zmq.curve_public(first.secret.encode()) == first.public.encode()


def test_keys_are_not_shown() -> None:
    keys = new_curve_keys()
    assert repr(keys) == str(keys) == f"{keys}" == "<CurveKeys>"
    assert pickle.loads(pickle.dumps(keys)) == keys == CurveKeys(keys.public, keys.secret)
