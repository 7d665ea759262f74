from __future__ import annotations

import os
import threading

import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.output import forward as module
from kernelproto.launch.output.forward import Forwarder, open_forwarder, open_output

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60


def finish(relay: Forwarder) -> None:
    relay.end()
    assert relay.join(GUARD_SECONDS)


def test_everything_is_passed_on_in_order() -> None:
    received = bytearray()
    relay = open_forwarder(received.extend)
    for number in range(10_000):
        relay.put(b"%d\n" % number)
    finish(relay)
    assert received == b"".join(b"%d\n" % number for number in range(10_000))


def test_nothing_to_pass_on() -> None:
    calls: list[bytes] = []
    finish(Forwarder(calls.append))
    assert calls == []


def test_descriptor_is_duplicated(tmp_path) -> None:
    path = tmp_path / "out"
    with open(path, "wb") as file:
        relay = open_forwarder(file.fileno())
        other = open_forwarder(file)
    for each in (relay, other):
        each.put(b"hello ")
        finish(each)
    assert path.read_bytes() == b"hello hello "


def test_path_is_appended_to(tmp_path) -> None:
    path = tmp_path / "out"
    path.write_text("before ")
    relay = open_forwarder(str(path))
    relay.put(b"after")
    finish(relay)
    assert path.read_text() == "before after"


def test_new_file_is_for_the_user_alone(tmp_path) -> None:
    path = tmp_path / "out"
    os.close(open_output(str(path)))
    assert path.stat().st_mode & 0o777 == 0o600


def test_text_files_and_the_like_need_a_descriptor(tmp_path) -> None:
    with open(tmp_path / "out", "w") as file:
        finish(open_forwarder(file))


@pytest.mark.parametrize(
    "output", [None, True, 1.5, object(), b"bytes", -1, 10_000, "/missing/folder/file"]
)
def test_invalid_outputs(output) -> None:
    with pytest.raises(InvalidLaunchParameter, match="'output'"):
        open_forwarder(output)


def test_file_without_a_descriptor(tmp_path) -> None:
    with open(tmp_path / "out", "w") as file:
        pass
    with pytest.raises(InvalidLaunchParameter, match="cannot be written to"):
        open_forwarder(file)


def test_receiver_that_blocks_does_not_block_put(monkeypatch) -> None:
    monkeypatch.setattr(module, "_BACKLOG_BYTES", 100)
    stuck, go_on = threading.Event(), threading.Event()
    received: list[bytes] = []

    def receive(piece: bytes) -> None:
        received.append(piece)
        stuck.set()
        go_on.wait(GUARD_SECONDS)

    relay = Forwarder(receive)
    relay.put(b"first")
    stuck.wait(GUARD_SECONDS)
    relay.put(b"a" * 60)
    relay.put(b"b" * 60)
    relay.put(b"c")  # would fit, but must not arrive without the output before
    assert not relay.join(0)
    go_on.set()
    finish(relay)
    assert received == [b"first", b"a" * 60, b"\n[61 bytes of output left out]\n"]


def test_receiver_that_fails(caplog) -> None:
    failed = threading.Event()
    calls: list[bytes] = []

    def receive(piece: bytes) -> None:
        calls.append(piece)
        failed.set()
        raise ValueError("no more")

    relay = Forwarder(receive)
    relay.put(b"one")
    failed.wait(GUARD_SECONDS)
    assert relay.join(GUARD_SECONDS)
    relay.put(b"two")
    relay.end()
    assert relay._backlog == b""
    assert calls == [b"one"]
    assert "is no longer forwarded" in caplog.text
    assert "no more" in caplog.text


def test_pipe_whose_reader_is_gone(caplog) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    relay = open_forwarder(write_fd)
    os.close(write_fd)
    relay.put(b"one")
    finish(relay)
    assert "Broken pipe" in caplog.text


def test_full_pipe_that_does_not_block() -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    relay = open_forwarder(write_fd)
    os.close(write_fd)
    relay.put(b"x" * 1_000_000)
    relay.end()
    with open(read_fd, "rb") as file:
        assert len(file.read()) == 1_000_000
    assert relay.join(GUARD_SECONDS)


def test_no_thread_can_be_started(monkeypatch, tmp_path) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="thread"):
        open_forwarder(str(tmp_path / "out"))
