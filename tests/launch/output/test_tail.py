from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings

import pytest

from kernelproto.launch.output import tail as module
from kernelproto.launch.output.tail import OutputTail

pytestmark = pytest.mark.usefixtures("no_leaks")

LIMIT = 64 * 1024


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kernelproto-output"]


@pytest.fixture
def tail():
    tail = OutputTail()
    yield tail
    tail.close()


def test_text_has_the_latest_output(tail) -> None:
    expected = ""
    for number in range(1000):
        tail.write_end.write(b"%d\n" % number)
        expected += f"{number}\n"
        assert tail.text() == expected


def test_text_without_the_thread(tail) -> None:
    with module._lock:  # the thread never reads
        tail.write_end.write(b"a" * 1000)
        tail._pull()
        assert bytes(tail._kept) == b"a" * 1000


def test_the_last_is_kept(tail) -> None:
    for letter in b"abc":
        tail.write_end.write(bytes([letter]) * (LIMIT // 2))
        tail.text()
    assert tail.text() == "b" * (LIMIT // 2) + "c" * (LIMIT // 2)


def test_bytes_that_are_not_utf8_are_replaced(tail) -> None:
    tail.write_end.write("é".encode() + b"\xff" + "é".encode())
    assert tail.text() == "é\ufffdé"


def test_text_stays_after_close(tail) -> None:
    tail.write_end.write(b"last words")
    tail.close()
    tail.close()
    assert tail.text() == "last words"


def test_text_stays_after_the_writers_have_closed(tail) -> None:
    tail.write_end.write(b"last words")
    tail.write_end.close()
    assert tail.text() == "last words"
    assert tail.text() == "last words"
    tail.close()
    assert readers() == []


@pytest.mark.parametrize("end", ["close", "end of file"])
def test_one_thread_from_the_first_tail_to_the_last(end) -> None:
    assert readers() == []
    tails = [OutputTail() for _ in range(20)]
    (reader,) = readers()
    for tail in tails:
        assert readers() == [reader]
        if end == "close":
            tail.close()
        else:
            tail.write_end.close()
            tail.text()
    reader.join()
    assert readers() == []
    for tail in tails:
        tail.close()


def test_thread_notices_the_end_of_the_last_pipe_by_itself() -> None:
    tail = OutputTail()
    (reader,) = readers()
    tail.write_end.close()
    reader.join()
    assert tail.text() == ""


def test_nothing_is_left_when_close_returns() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(300):
        tail = OutputTail()
        tail.close()
        assert readers() == []
    assert os.listdir("/proc/self/fd") == before


def test_writer_is_never_held_up(tail) -> None:
    size = 5 * 1024 * 1024
    code = (
        f"import os\nfor _ in range({size} // 4096): os.write(2, b'x' * 4096)\nos.write(2, b'end')"
    )
    # run() blocks this thread, as a busy application blocks its event loop.
    subprocess.run([sys.executable, "-c", code], stderr=tail.write_end, check=True, timeout=60)
    assert tail.text() == "x" * (LIMIT - 3) + "end"


def test_text_comes_back_however_fast_the_writer_is(tail) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import os\nwhile True: os.write(1, b'x' * 65536)"],
        stdout=tail.write_end,
    ) as writer:
        for _ in range(300):
            assert len(tail.text()) <= LIMIT
        writer.kill()


def test_tails_may_come_and_go_in_many_threads() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(200):
                tail = OutputTail()
                tail.write_end.write(b"%d" % number)
                if number % 2:
                    tail.write_end.close()
                assert tail.text() == str(number)
                tail.close()
                assert tail.text() == str(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert readers() == []


def test_readers_in_many_threads_see_everything(tail) -> None:
    written: list[str] = []
    failures: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            expected = "".join(written)
            if not tail.text().startswith(expected):
                failures.append(expected)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(500):
        tail.write_end.write(b"%d," % number)
        written.append(f"{number},")
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_thread_can_be_started(monkeypatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module._Reader, "start", start)
    with pytest.raises(RuntimeError, match="thread"):
        OutputTail()
    monkeypatch.undo()
    OutputTail().close()


@pytest.mark.parametrize("first", [True, False])
def test_pipe_cannot_be_watched(monkeypatch, first) -> None:
    others = [] if first else [OutputTail()]
    real = module.selectors.DefaultSelector.register

    def register(self, fileobj, events, data=None):
        if data is not None:
            raise OSError("no space left on device")
        return real(self, fileobj, events, data)

    monkeypatch.setattr(module.selectors.DefaultSelector, "register", register)
    with pytest.raises(OSError, match="no space"):
        OutputTail()
    monkeypatch.undo()
    for tail in others:
        tail.write_end.write(b"still read")
        assert tail.text() == "still read"
        tail.close()


def in_forked_child(check) -> None:
    """Run *check* in a fork of this process; fail with its message."""
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks with threads, which this test needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException as error:
            os.write(write_fd, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd) as report:
        assert report.read() == ""
    os.waitpid(child, 0)


def test_fork_leaves_the_output_to_the_parent(tail) -> None:
    tail.write_end.write(b"before")
    tail.text()

    def check() -> None:
        tail.write_end.write(b" child")
        assert tail.text() == "before"
        tail.close()
        assert tail.text() == "before"

    in_forked_child(check)
    tail.write_end.write(b" after")
    assert tail.text() == "before child after"
    # The thread in the parent still gets to read.
    tail.write_end.close()
    tail._reader.join()


def test_fork_can_have_tails_of_its_own(tail) -> None:
    def check() -> None:
        own = OutputTail()
        assert len(readers()) == 1
        own.write_end.write(b"own")
        assert own.text() == "own"
        own.close()
        assert readers() == []

    in_forked_child(check)
    tail.write_end.write(b"x" * LIMIT)
    tail.write_end.write(b"y" * LIMIT)
    assert tail.text() == "y" * LIMIT


def test_fork_while_the_thread_is_at_work(tail) -> None:
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            tail.write_end.write(b"x" * 1000)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(30):
        in_forked_child(tail.text)
    done.set()
    writer.join()


def test_fork_without_tails() -> None:
    in_forked_child(lambda: OutputTail().close())
