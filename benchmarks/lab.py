"""Lab: the kernels that the contenders share, and the amount of work."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[1]

_OWN_IPYKERNEL = "kernelproto.launch.programs.ipykernel"

# Without the warning that the output cache is full, and without the thread that writes the history.
_QUIET = ("--InteractiveShell.cache_size=0",)
_WITHOUT_HISTORY = (*_QUIET, "--HistoryManager.enabled=False")

# A server that has not ended this long after SIGTERM is killed.
_END_SECONDS = 30.0

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class Sizes(NamedTuple):
    """An amount of work at each scale."""

    full: int
    quick: int
    tiny: int


class Lab:
    """The environment of every question; ``open_lab`` creates it.

    Attributes:
        scale: the amount of work: "full" to measure, "quick" for a first impression, "tiny" to
            check that everything works.
        folder: for files; removed with the lab.
    """

    def __init__(
        self, scale: Literal["full", "quick", "tiny"], folder: Path, ends: ExitStack
    ) -> None:
        self.scale = scale
        self.folder = folder
        self._ends = ends
        self._count = 0
        self._servers: dict[tuple[str, ...], tuple[str, int]] = {}
        self._pids: list[int] = []

    def size(self, sizes: Sizes) -> int:
        """Return the amount at this scale."""
        return sizes[("full", "quick", "tiny").index(self.scale)]

    def at_end(self, function: Callable[[], object]) -> None:
        """Call a function at the end of the lab, after that of all servers started later."""
        self._ends.callback(function)

    def pids(self) -> Sequence[int]:
        """Return the processes that the contenders share."""
        return self._pids

    @property
    def synthetic(self) -> Path:
        """The connection file of a synthetic kernel."""
        return self._one[0]

    @cached_property
    def _one(self) -> Sequence[Path]:
        return self._synthetic_kernels(1)

    @cached_property
    def fifty(self) -> Sequence[Path]:
        """The connection files of 50 synthetic kernels, which run in two processes."""
        halves = (self._synthetic_kernels(25), self._synthetic_kernels(25))
        return [file for pair in zip(*halves, strict=True) for file in pair]

    @cached_property
    def ipykernel(self) -> Path:
        """The connection file of a stock ipykernel, over tcp, without its history."""
        return self._started("ipykernel_launcher", *_WITHOUT_HISTORY)

    @cached_property
    def ipykernel_with_history(self) -> Path:
        """The connection file of a stock ipykernel, over tcp."""
        return self._started("ipykernel_launcher", *_QUIET)

    @cached_property
    def own_ipykernel(self) -> Path:
        """The connection file of an ipykernel with kernelproto's hooks, without its history."""
        return self._started(_OWN_IPYKERNEL, *_WITHOUT_HISTORY)

    @cached_property
    def own_ipykernel_with_history(self) -> Path:
        """The connection file of an ipykernel with kernelproto's hooks, over tcp."""
        return self._started(_OWN_IPYKERNEL, *_QUIET)

    @cached_property
    def xeus_python(self) -> Path:
        """The connection file of a xeus-python, over tcp."""
        return self._started("xpython_launcher")

    def server(self, started: str, *command: str) -> tuple[str, int]:
        """Start a server unless it is already running; return its address and process id.

        Args:
            started: a regular expression for the line on standard error that reports the start; its
                first group is the address.
            command: the program and its arguments.
        """
        if command not in self._servers:
            log = self._new_folder() / "stderr"
            with log.open("wb") as stderr:
                server = subprocess.Popen(
                    command, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=stderr
                )
            self._ends.enter_context(server)
            self._ends.callback(_end, server)
            self._pids.append(server.pid)
            while (found := re.search(started, log.read_text())) is None:
                if server.poll() is not None:
                    raise RuntimeError(f"{' '.join(command[:3])} did not start")
                time.sleep(0.02)
            self._servers[command] = found[1], server.pid
        return self._servers[command]

    def _synthetic_kernels(self, count: int) -> Sequence[Path]:
        folder = self._new_folder()
        kernels = self._process("benchmarks.synthetic_kernel", str(folder), str(count))
        assert kernels.stdout is not None
        if kernels.stdout.readline() != b"ready\n":
            raise RuntimeError("the synthetic kernels did not start")
        return sorted(folder.iterdir())

    def _started(self, module: str, *arguments: str) -> Path:
        file = self._new_folder() / "kernel.json"
        with ExitStack() as probes:
            ports: list[int] = []
            for _ in _CHANNELS:
                probe = probes.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        info: Mapping[str, object] = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
            "kernel_name": "",
            **{f"{channel}_port": port for channel, port in zip(_CHANNELS, ports, strict=True)},
        }
        file.write_text(json.dumps(info))
        kernel = self._process(module, "-f", str(file), *arguments)
        while not _listens(ports):
            if kernel.poll() is not None:
                raise RuntimeError(f"{module} did not start")
            time.sleep(0.02)
        return file

    def _process(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
            stdin=subprocess.PIPE,  # the reader learns when this process has ended
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ends.enter_context(process)
        self._ends.callback(process.kill)
        self._pids.append(process.pid)
        return process

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        return folder


@contextmanager
def open_lab(scale: Literal["full", "quick", "tiny"]) -> Generator[Lab]:
    """Open a lab; leaving the block ends its kernels.

    Meanwhile, environment variables of this process give Jupyter and IPython separate folders.
    """
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="kp-bench-")))
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            ends.callback(_restore, name, os.environ.get(name))
            os.environ[name] = str(folder / name.lower())
        (folder / "jupyter_runtime_dir").mkdir(mode=0o700)
        _install_synthetic_kernel(folder / "jupyter_data_dir")
        yield Lab(scale, folder, ends)


def _install_synthetic_kernel(data_dir: Path) -> None:
    """Install the synthetic kernel as ``synthetic``, for servers that start their own kernels."""
    folder = data_dir / "kernels" / "synthetic"
    folder.mkdir(parents=True)
    argv = [sys.executable, str(ROOT / "benchmarks/synthetic_kernel.py"), "{connection_file}"]
    kernelspec = {"argv": argv, "display_name": "Synthetic", "language": "none"}
    (folder / "kernel.json").write_text(json.dumps(kernelspec))


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _listens(ports: Sequence[int]) -> bool:
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return False
    return True
