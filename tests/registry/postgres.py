"""A PostgreSQL of the tests' own, with its files and its socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg

CALL_SECONDS = 60
USER = "nobody"  # the server refuses to run as root

_DEBIAN = Path("/usr/lib/postgresql")


class NoPostgres(Exception):
    """PostgreSQL does not run here; the text says why."""


class Postgres:
    """The server.

    Attributes:
        url: for a client on this machine.

    Raises:
        NoPostgres: it is not installed, or does not start.
    """

    def __init__(self) -> None:
        self._programs = _find_programs()
        self._user = USER if os.getuid() == 0 else None
        # The path of its socket has to be short.
        self._folder = tempfile.mkdtemp(prefix="kp-pg-")
        self.url = f"postgresql://kernelproto@/postgres?host={self._folder}"
        self._server: subprocess.Popen[bytes] | None = None
        try:
            if self._user:
                shutil.chown(self._folder, self._user)
            self._run("initdb", "--username=kernelproto", "--auth=trust", "--no-sync", "-D", "data")
            self.start()
        except (OSError, subprocess.SubprocessError, LookupError) as error:
            self.close()
            reason = getattr(error, "stderr", None) or str(error).encode()
            raise NoPostgres(f"PostgreSQL cannot run here: {reason.decode()[-500:]}") from None

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with open(os.path.join(self._folder, "log"), "ab") as log:
            self._server = subprocess.Popen(
                [
                    self._programs / "postgres",
                    *("-D", "data", "-k", self._folder),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"),
                    *("-c", "deadlock_timeout=100ms"),
                ],
                cwd=self._folder,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    text = Path(self._folder, "log").read_text(errors="replace")
                    raise OSError(f"{error}: {text}") from None
                time.sleep(0.02)
            else:
                break

    def stop(self) -> None:
        """Stop the server at once; it leaves its clients without an answer."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(CALL_SECONDS)
            self._server = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Suspend all processes of the server."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def cpu(self) -> float:
        """Return the processor time of all processes of the server, in seconds."""
        stats = [
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for pid in (self.pid, *self._children())
        ]
        # utime and stime of all; of children that have ended, those of the first process.
        ticks = sum(int(stat[11]) + int(stat[12]) for stat in stats)
        ticks += int(stats[0][13]) + int(stats[0][14])
        return ticks / os.sysconf("SC_CLK_TCK")

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Perform statements on a connection of their own; return the rows of the last one."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stop the server and remove its files."""
        if self._server is not None:
            self.resume()
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal_all(self, number: int) -> None:
        for pid in (self.pid, *self._children()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            cwd=self._folder,
            user=self._user,
            check=True,
            capture_output=True,
            timeout=CALL_SECONDS,
        )


def _find_programs() -> Path:
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).parent
    versions = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise NoPostgres("PostgreSQL is not installed: run `make cluster`")
    return versions[-1].parent
