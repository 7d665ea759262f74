"""Kernels that are small scripts, and a way to hear from them without waiting by the clock."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

GUARD_SECONDS = 60  # no test takes that long unless it hangs


class Mailbox:
    """A named pipe to which a script writes, once."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def script(self, expression: str) -> str:
        """Return Python code that sends the value of *expression*."""
        return f"open({str(self.path)!r}, 'w').write(str({expression}))"

    async def receive(self) -> str:
        """Wait for the message."""
        with anyio.fail_after(GUARD_SECONDS):
            return await anyio.to_thread.run_sync(self.path.read_text, abandon_on_cancel=True)


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path / "mailbox")


@pytest.fixture
def write_kernelspec() -> Callable[..., Path]:
    """Give a function that installs a kernelspec for the user of this test."""

    def write(name: str, /, **entries: object) -> Path:
        folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", name)
        folder.mkdir(parents=True)
        folder.joinpath("kernel.json").write_text(json.dumps(entries))
        return folder

    return write


@pytest.fixture
def resources() -> Callable[[], tuple[list[str], list[str]]]:
    """Give a function that lists the descriptors of this process and the threads of the library.

    Other threads come and go as the event loops please.
    """

    def list_them() -> tuple[list[str], list[str]]:
        threads = [thread.name for thread in threading.enumerate()]
        ours = [name for name in threads if name.startswith("kernelproto")]
        return sorted(os.listdir("/proc/self/fd")), ours

    return list_them


@pytest.fixture
def few_descriptors() -> Callable[[int], AbstractContextManager[None]]:
    """Give a block for which this process has only so many file descriptors left."""

    import resource  # there is none on Windows

    @contextmanager
    def leave(free: int) -> Generator[None]:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        taken: list[int] = []
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            for _ in range(free):
                os.close(taken.pop())
            yield
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    return leave


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder from which Python imports packages during this test."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def declare(packages: Path) -> Callable[..., None]:
    """Give a function that installs a package with entry points and nothing else."""

    def install(package: str, /, **providers: str) -> None:
        folder = packages / f"{package}-1.0.dist-info"
        folder.mkdir()
        folder.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\n")
        lines = [f"{name} = {value}" for name, value in providers.items()]
        folder.joinpath("entry_points.txt").write_text(
            "\n".join(["[kernelproto.kernel_providers]", *lines])
        )

    return install


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """Give a time zone that a forked process cannot read before the test is over."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    yield f":{fifo}"
    with suppress(OSError):  # without a reader
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
