"""A Slurm of the tests' own: munged, slurmctld and two slurmd, on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from kernelproto.launch.batch.provider import SlurmProvider
from kernelproto.launch.batch.settings import BatchKernel

START_SECONDS = 40
NODES = ("n1", "n2")

CONFIG = """
ClusterName=kernelproto
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PriorityType=priority/basic
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=3
TCPTimeout=1
SlurmctldTimeout=10
InactiveLimit=0
KillWait=2
OverTimeLimit=0
MinJobAge=60
MpiDefault=none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PrologFlags=NoHold
"""

NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=8000 "
    "State=UNKNOWN\n"
)
PARTITIONS = (
    "PartitionName=all Nodes=n1,n2 Default=YES MaxTime=60 State=UP\n"
    "PartitionName=down Nodes=n2 MaxTime=60 State=DOWN\n"
)


class NoSlurm(Exception):
    """The tests with Slurm cannot run here; the text says why."""


class SlurmFailed(Exception):
    """Slurm is installed, but does not start; the text has the ends of the logs."""


class Cluster:
    """The daemons, and the kernel types for them.

    Raises:
        NoSlurm: Slurm is not installed.
        SlurmFailed: Slurm does not start.
    """

    def __init__(self) -> None:
        needed = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
        paths = {name: shutil.which(name, path=_path()) for name in needed}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            raise NoSlurm(f"{', '.join(missing)} is not installed: run `make cluster`")
        if os.getuid() != 0:
            raise NoSlurm("the tests with Slurm need root")
        self._paths = {name: path for name, path in paths.items() if path is not None}
        self._folder = Path(tempfile.mkdtemp(prefix="kp-slurm-"))
        self.config = str(self._folder / "slurm.conf")
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._configure()
            self._start("munged", *self._munged())
            self._wait(lambda: (self._folder / "munge.sock").exists(), "munged")
            self._start("slurmctld", self._paths["slurmctld"], "-D", "-f", self.config)
            for node in NODES:
                self.start_node(node)
            self._wait(self._nodes_are_idle, "the nodes")
        except BaseException:
            self.close()
            raise

    @property
    def shared(self) -> str:
        """The folder of the kernels."""
        return str(self._folder / "kernels")

    def has_folder(self) -> bool:
        """Return whether a kernel has left its folder behind."""
        return os.path.exists(self.shared)

    def kernel(self, *command: str, **settings: object) -> BatchKernel:
        """Return a kernel type; by default it is the ipykernel of this interpreter."""
        python = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")
        options = {"command": command or python, "python": sys.executable, "bind": "127.0.0.1"}
        return BatchKernel(**{**options, **settings})

    def provider(self, **kernels: BatchKernel) -> SlurmProvider:
        return SlurmProvider(
            kernels or {"python": self.kernel()},
            folder=self.shared,
            poll_seconds=0.2,
            config=self.config,
        )

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the jobs that have not ended."""
        return self.call("squeue", "--noheader", "--format=%i %T %j").splitlines()

    def start_node(self, name: str) -> None:
        self._start(name, self._paths["slurmd"], "-D", "-N", name, "-f", self.config)

    def kill_node(self, name: str) -> None:
        """Kill the daemon of a node; the steps that it has started live on."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def stop_controller(self) -> None:
        """Keep the controller from answering until continue_controller()."""
        self._daemons["slurmctld"].send_signal(signal.SIGSTOP)

    def continue_controller(self) -> None:
        self._daemons["slurmctld"].send_signal(signal.SIGCONT)

    def wait_for_nodes(self) -> None:
        self._wait(self._nodes_are_idle, "the nodes")

    def close(self) -> None:
        """End the daemons by their ids, and all steps of jobs."""
        with suppress(KeyError):
            self.continue_controller()
        with suppress(OSError, subprocess.SubprocessError):
            self.call("scancel", "--signal=KILL", "--full", "--user=root")
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in reversed(self._daemons.values()):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self._leftovers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leftovers(self) -> Iterator[int]:
        """Yield the processes with an open file in the folder, such as steps of killed nodes."""
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with suppress(OSError):
                if os.readlink(link).startswith(f"{self._folder}/"):
                    yield int(link.parts[2])

    def _configure(self) -> None:
        host = socket.gethostname()
        ports = _free_ports(1 + len(NODES))
        text = CONFIG.format(folder=self._folder, host=host, user="root", port=ports[0])
        for name, port in zip(NODES, ports[1:], strict=True):
            text += NODE.format(name=name, host=host, port=port)
            (self._folder / f"spool-{name}").mkdir()
        (self._folder / "state").mkdir()
        Path(self.config).write_text(text + PARTITIONS)
        (self._folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._folder.chmod(0o755)  # munged wants others to reach its socket

    def _munged(self) -> list[str]:
        folder = self._folder
        return [
            self._paths["munged"],
            "--foreground",
            "--force",
            f"--socket={folder}/munge.sock",
            f"--key-file={folder}/munge.key",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge.seed",
        ]

    def _start(self, name: str, *command: str) -> None:
        with open(self._folder / f"{name}.log", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        return {"PATH": _path(), "SLURM_CONF": self.config, "HOME": "/root", "LANG": "C.UTF-8"}

    def _nodes_are_idle(self) -> bool:
        try:
            states = self.call("sinfo", "--noheader", "--Node", "--partition=all", "--format=%T")
        except subprocess.SubprocessError:
            return False
        return states.split() == ["idle"] * len(NODES)

    def _wait(self, condition: Callable[[], bool], parts: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "".join(
                    path.read_text(errors="replace")[-700:] for path in self._folder.glob("*.log")
                )
                raise SlurmFailed(f"Slurm does not start, waiting for {parts}: {logs}")
            time.sleep(0.1)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    """Return free ports outside the ranges from which systems choose ports for others."""
    found: set[int] = set()
    while len(found) < count:
        port = 10000 + secrets.randbelow(20000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)
