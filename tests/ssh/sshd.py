"""A real sshd on loopback, with keys, configuration and users of its own, in a temporary folder.

It runs as an ordinary user. If the tests run as root, that is a user whom only this sshd knows, by
the library nss_wrapper; otherwise the user who runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Thread

import pytest

from kernelproto.ssh.connection import HostOptions

# Each process that runs tests has a user of its own, whose processes are killed at the end.
_UID = 40_000 + os.getpid() % 20_000
_USER = "kernelproto-far"
_WRAPPERS = "*-linux-gnu/libnss_wrapper.so"

# The packages of the tests, for another Python of the same version.
_VARIABLES = {"PYTHONPATH": sysconfig.get_path("purelib")}

_WITHOUT = "install it with `make cluster`"


class Sshd:
    """The server, and the files that its clients and its user need.

    Attributes:
        folder: the folder of everything.
        home: the home folder of the user.
        uid: the number of the user.
        options: how a client reaches the server.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.uid = _UID if os.geteuid() == 0 else os.geteuid()
        self.config = folder / "ssh_config"
        self.options = HostOptions(python=_python() or "", ssh=("ssh", "-F", str(self.config)))
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        for part in (self.home, self.home / ".ipython", self.kernelspec("python3").parent.parent):
            part.mkdir(parents=True, exist_ok=True)
        self.kernelspec("python3").parent.mkdir(parents=True)
        argv = [self.options.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.kernelspec("python3").write_text(
            json.dumps(
                {"argv": argv, "display_name": "Far", "language": "python", "env": _VARIABLES}
            )
        )
        for key in ("host_key", "user_key", "other_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(command, check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        self.know(self.host_key)
        self._write_configurations()
        if os.geteuid() == 0:
            for root, folders, files in os.walk(folder):
                for name in [*folders, *files, "."]:
                    os.chown(os.path.join(root, name), _UID, _UID)
            for key in ("user_key", "other_key"):
                os.chown(folder / key, 0, 0)

    @property
    def host_key(self) -> str:
        return (self.folder / "host_key.pub").read_text()

    def kernelspec(self, name: str) -> Path:
        return self.home / ".local/share/jupyter/kernels" / name / "kernel.json"

    def know(self, key: str) -> None:
        """Let the clients know a host key, and no other; "" for none."""
        known = f"[127.0.0.1]:{self._port} {key}" if key else ""
        (self.folder / "known_hosts").write_text(known)

    def start(self) -> None:
        command = [_sshd(), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)]
        as_user = {"user": _UID, "group": _UID, "extra_groups": []} if os.geteuid() == 0 else {}
        self._process = subprocess.Popen(
            command, env=self._environment(), cwd=self.folder, start_new_session=True, **as_user
        )
        # It has this title once it listens. A connection would change the title, by which no_leaks
        # tells processes.
        for _ in range(1000):
            title = Path("/proc", str(self._process.pid), "cmdline").read_bytes()
            if b"[listener] 0 of" in title:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"sshd does not listen: {self.log.read_text()}")

    @property
    def log(self) -> Path:
        return self.folder / "sshd.log"

    def sessions(self) -> list[int]:
        """Return the processes of sshd that serve connections: one of each is a child's child."""
        assert self._process is not None
        found = {self._process.pid}
        for pid, parent, _ in sorted(_processes()):
            with suppress(OSError):  # the process has ended
                if parent in found and Path("/proc", str(pid), "comm").read_text() == "sshd\n":
                    found.add(pid)
        return sorted(found - {self._process.pid})

    @contextmanager
    def through_proxy(self) -> Generator[Proxy]:
        """Let the clients connect through a proxy for the block, which can cut connections."""
        proxy = Proxy(self._port)
        known = self.folder / "known_hosts"
        before = {path: path.read_text() for path in (self.config, known)}
        text = before[self.config].replace(f"Port {self._port}", f"Port {proxy.port}")
        self.config.write_text(text)
        known.write_text(before[known].replace(f":{self._port}", f":{proxy.port}"))
        try:
            yield proxy
        finally:
            proxy.stop()
            for path, text in before.items():
                path.write_text(text)

    def signal_sessions(self, signum: int) -> None:
        for pid in self.sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def far_processes(self) -> list[int]:
        """Return the processes of the user on the far side, if it has processes of its own."""
        if os.geteuid() != 0:
            return []
        assert self._process is not None
        ours = {self._process.pid, *self.sessions()}
        return [pid for pid, _, uid in _processes() if uid == _UID and pid not in ours]

    def stop(self) -> None:
        if self._process is not None:
            self.signal_sessions(signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _write_configurations(self) -> None:
        (self.folder / "sshd_config").write_text(
            f"""
            Port {self._port}
            ListenAddress 127.0.0.1
            HostKey {self.folder}/host_key
            AuthorizedKeysFile {self.folder}/authorized_keys
            PidFile none
            StrictModes no
            UsePAM no
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            MaxStartups 100
            """
        )
        self.config.write_text(
            f"""
            Host far
              HostName 127.0.0.1
              Port {self._port}
              User {_USER if os.geteuid() == 0 else _own_name()}
              IdentityFile {self.folder}/user_key
              IdentitiesOnly yes
              IdentityAgent none
              UserKnownHostsFile {self.folder}/known_hosts
              GlobalKnownHostsFile {os.devnull}
            Host stranger
              HostName 127.0.0.1
              Port {self._port}
              User {_USER if os.geteuid() == 0 else _own_name()}
              IdentityFile {self.folder}/other_key
              IdentitiesOnly yes
              IdentityAgent none
              UserKnownHostsFile {self.folder}/known_hosts
              GlobalKnownHostsFile {os.devnull}
            Host silent
              HostName 127.0.0.1
              Port 1
            """
        )

    def _environment(self) -> dict[str, str]:
        if os.geteuid() != 0:
            return dict(os.environ)
        passwd, group = self.folder / "passwd", self.folder / "group"
        passwd.write_text(f"{_USER}:x:{_UID}:{_UID}::{self.home}:/bin/sh\n")
        group.write_text(f"{_USER}:x:{_UID}:\n")
        return {
            "PATH": os.environ["PATH"],
            "LD_PRELOAD": _wrapper() or "",
            "NSS_WRAPPER_PASSWD": str(passwd),
            "NSS_WRAPPER_GROUP": str(group),
        }


class Proxy:
    """Forwards connections to a port until they are cut; for each, two threads.

    Args:
        target: the port.

    Attributes:
        port: the port to connect to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Cut all connections: both ends see a reset."""
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def stop(self) -> None:
        """Cut all connections, and accept no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    thread = Thread(target=self._forward, args=pair)
                    self._threads.append(thread)
                    thread.start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def running_sshd() -> Iterator[Sshd]:
    """Run a server for the block; skip the test if it cannot be run here."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="kpsshd-"))
    folder.chmod(0o755)
    sshd = Sshd(folder)
    try:
        sshd.start()
        yield sshd
    finally:
        sshd.stop()
        for pid in sshd.far_processes() if sshd._process else _leftovers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if os.geteuid() == 0:  # where the host has its folder if the path of the home is long
            shutil.rmtree(f"/tmp/kernelproto-{_UID}", ignore_errors=True)


def _leftovers() -> list[int]:
    return [pid for pid, _, uid in _processes() if uid == _UID] if os.geteuid() == 0 else []


def _missing() -> str | None:
    if _sshd() is None:
        return f"there is no sshd: {_WITHOUT}"
    if os.geteuid() != 0:
        return None
    if _wrapper() is None:
        return f"there is no nss_wrapper, which gives the sshd an ordinary user: {_WITHOUT}"
    if _python() is None:
        return "an ordinary user has no Python of this version that can import ipykernel"
    return None


@cache
def _python() -> str | None:
    """Return a Python that the far user can run: that of the tests may be in root's home folder."""
    as_user = {"user": _UID, "group": _UID, "extra_groups": []} if os.geteuid() == 0 else {}
    for python in (sys.executable, "/usr/bin/python{}.{}".format(*sys.version_info)):
        with suppress(OSError):
            command = [python, "-c", "import ipykernel"]
            env = {"PATH": os.environ["PATH"], **_VARIABLES}
            trial = subprocess.run(command, env=env, cwd="/", capture_output=True, **as_user)
            if trial.returncode == 0:
                return python
    return None


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def _wrapper() -> str | None:
    return next((str(path) for path in Path("/usr/lib").glob(_WRAPPERS)), None)


def _own_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield the number, the parent and the user of each process."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    yield int(entry), int(fields[1]), os.stat(f"/proc/{entry}").st_uid
