"""A soak of the server: users who do at random whatever users do, and checks of all they get.

    python -m tests.integration.soak --minutes 20 --users 30 --seed 1

Users execute numbered lines, interrupt, restart and delete their kernels, lose their connections,
reload their pages, kill their kernels' processes and have their tokens revoked, while an admin
interrupts, restarts and shuts down kernels of anybody. The seed decides what each of them does, and
the machine how these actions meet.

Checked are: each line arrives once, in order, at its user; a cell ends early only after an action
that ends cells, and its user is told; no WebSocket is closed and no request is refused without a
cause; the server logs no error; it never pauses (see ``oracle``); its descriptors, threads,
processes and memory do not grow; and nothing is left of it in the end.

It talks to loopback only, ends by itself, prints a summary, and exits with 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from tests.integration.oracle import StallOracle
from tests.integration.soak_checks import Report
from tests.integration.soak_users import (
    ADMIN,
    STUCK_SECONDS,
    Actor,
    Census,
    SoakAdmin,
    SoakUser,
    Tokens,
)

SCRIPTED = Path(__file__).with_name("share") / "kernels" / "scripted" / "kernel.py"
KINDS = ["fork/kernel", "fork/kernel", "spec/soak"]

# How much may be there at the end beyond the first measurement.
MORE_FILES, MORE_THREADS, MORE_PROCESSES = 10, 4, 2
MORE_BYTES, MORE_MEMORY = 16 * 2**20, 1.15

LOG_SECONDS = 10


class Measured(NamedTuple):
    """The server between two rounds, while nothing is under way."""

    minute: float
    files: int
    threads: int
    processes: int
    mib: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Soak the server.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="for the server")
    options = parser.parse_args(arguments)
    report, summary = soak(options.minutes, options.users, options.seed, options.log)
    sys.stdout.write(summary)
    return 1 if report.faults else 0


def soak(minutes: float, users: int, seed: str, log: Path) -> tuple[Report, str]:
    """Run it; return the counts and faults, and the summary in words."""
    report = Report()
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tokens = Tokens(Path(folder, "users.toml"))
        names = [f"user{number}" for number in range(users)]
        tokens.renew(ADMIN, *names)
        with serving(Path(folder), tokens, users, report, log) as (url, server):
            oracle = StallOracle(int(url.rpartition(":")[2]), server.pid)
            try:
                census = Census(users + 2)
                shared = (url, tokens, census, report)
                soakers = {
                    name: SoakUser(KINDS[number % len(KINDS)], seed, server.pid, name, *shared)
                    for number, name in enumerate(names)
                }
                admin = SoakAdmin(seed, soakers, ADMIN, *shared)
                run([*soakers.values(), admin], census, report, server, minutes, measured)
            finally:
                stalls = oracle.stop()
        left = [str(path) for path in Path(folder, "runtime").rglob("*") if path.is_file()]
        if left:
            report.fault(f"files were left: {left}")
    if len(measured) > 1:
        check_growth(measured[0], measured[-1], report)
    if stalls["failures"] or stalls["worst"]["pause"] >= stalls["worst"]["limit"]:
        report.fault(f"the server paused: {stalls}")
    return report, summarize(report, measured, stalls)


def run(
    actors: list[Actor],
    census: Census,
    report: Report,
    server: subprocess.Popen[str],
    minutes: float,
    measured: list[Measured],
) -> None:
    """Let all act, and measure the server after a quarter of the time, and then now and again."""
    began = time.monotonic()
    threads = [threading.Thread(target=actor.run, name=actor.name) for actor in actors]
    for thread in threads:
        thread.start()
    try:
        for quarter in range(1, 5):
            end = began + minutes * 60 * quarter / 4
            if census.over.wait(max(end - time.monotonic(), 0)):
                break
            census.due.set()
            census.barrier.wait()
            measured.append(measure(server.pid, (time.monotonic() - began) / 60))
            census.due.clear()
            if quarter == 4:
                census.over.set()
            census.barrier.wait()
    except threading.BrokenBarrierError:
        report.fault("a user did not settle for a measurement")
    finally:
        census.over.set()
        for thread in threads:
            thread.join(3 * STUCK_SECONDS)


def measure(pid: int, minute: float) -> Measured:
    """Measure the server; the least within three seconds, because ended kernels may linger."""
    server = psutil.Process(pid)
    found = []
    for _ in range(10):
        time.sleep(0.3)
        found.append(
            Measured(
                minute,
                server.num_fds(),
                server.num_threads(),
                len(server.children(recursive=True)),
                server.memory_full_info().uss / 2**20,
            )
        )
    return Measured(*(min(column) for column in zip(*found, strict=True)))


def check_growth(first: Measured, last: Measured, report: Report) -> None:
    limits = {
        "files": first.files + MORE_FILES,
        "threads": first.threads + MORE_THREADS,
        "processes": first.processes + MORE_PROCESSES,
        "mib": first.mib * MORE_MEMORY + MORE_BYTES / 2**20,
    }
    for name, limit in limits.items():
        if getattr(last, name) > limit:
            report.fault(f"the server's {name} have grown: {first}, {last}")


@contextmanager
def serving(
    folder: Path, tokens: Tokens, users: int, report: Report, log_file: Path
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the server program; check its log, and that none of its processes is left."""
    spec = folder / "data" / "kernels" / "soak"
    spec.mkdir(parents=True)
    argv = ["python", "-I", str(SCRIPTED), "{connection_file}", ""]
    display = {"display_name": "Soak", "language": "python"}
    spec.joinpath("kernel.json").write_text(json.dumps({"argv": argv, **display}))
    folder.joinpath("runtime").mkdir(mode=0o700)
    folders = {"RUNTIME": "runtime", "DATA": "data", "CONFIG": "config"}
    settings = {
        "authentication": "file",
        "token_file": tokens.path,
        "root_dir": folder,
        "kernel": "fork/kernel",
        "max_kernels": 2 * users,
        "max_per_user": 2,
        "starts_per_minute": 0,
        "failed_logins_per_minute": 0,  # revoked users come from the address of all others
        "send_buffer_bytes": 4 * 2**20,
        "replay_seconds": STUCK_SECONDS,
        "log_format": "json",
    }
    env = {f"KERNELPROTO_{key.upper()}": str(value) for key, value in settings.items()}
    env |= {f"JUPYTER_{key}_DIR": str(folder / name) for key, name in folders.items()}
    env |= {"JUPYTER_PATH": "", "IPYTHONDIR": str(folder / "ipython")}
    server = subprocess.Popen(
        [sys.executable, "-m", "kernelproto.server", "--port", "0"],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    log = threading.Thread(target=read_log, args=(server.stderr, report, log_file))
    children: list[psutil.Process] = []
    try:
        line = server.stderr.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        assert found, line
        log.start()
        yield found.group(), server
        children = psutil.Process(server.pid).children(recursive=True)
    finally:
        server.terminate()
        status = server.wait(STUCK_SECONDS)
        if log.ident is not None:
            log.join(LOG_SECONDS)
        server.stderr.close()
    if status != 0:
        report.fault(f"the server ended with the status {status}")
    _, alive = psutil.wait_procs(children, timeout=LOG_SECONDS)
    if alive:
        report.fault(f"processes were left: {alive}")


def read_log(log: IO[str], report: Report, file: Path) -> None:
    """Read the server's log to its end; an error in it, or a line that is no JSON, is a fault."""
    with file.open("w") as copy:
        for line in log:
            copy.write(line)
            check_line(line, report)


def check_line(line: str, report: Report) -> None:
    try:
        entry = json.loads(line)
    except ValueError:
        report.fault(f"the server has written {line!r}")
        return
    report.count(f"log: {entry['level']}")
    if entry["level"] not in ("debug", "info", "warning") or "Traceback" in line:
        report.fault(f"the server has logged {line}")


def summarize(report: Report, measured: list[Measured], stalls: dict[str, object]) -> str:
    lines = [f"{name:>40}  {report.counts[name]}" for name in sorted(report.counts)]
    lines += [f"{name:>40}  {report.counts[name]}" for name in ("lost", "foreign", "doubled")]
    lines += ["minute  files  threads  processes  MiB"]
    for one in measured:
        lines.append(
            f"{one.minute:6.1f} {one.files:6} {one.threads:8} {one.processes:10} {one.mib:4.0f}"
        )
    lines += [f"oracle: {json.dumps(stalls)}"]
    lines += [f"FAULT: {fault}" for fault in report.faults[:20]]
    lines += [f"{len(report.faults)} faults"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
