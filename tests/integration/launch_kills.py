"""Kill programs while they launch a kernel on Kubernetes; no pod or Secret may be left.

Run by hand, as root, after ``make kubernetes``: ``python -m tests.integration.launch_kills [KILLS]
[SEED]``; ``clusters`` does the same. Each program is killed at one step of its launch, at once or a
random time later: before and behind the calls that create the pod and the Secret, while the pod
waits (for a node that there is, or for none), while the host starts, before and behind its reply,
before the kernel is ready, and after the launch. Programs on asyncio and on Trio take turns, and
kernels with and without a linger time; the latter are killed at the steps themselves, as a kernel
that was ready goes on for ever. A pod may never have two kernels. After the next launch, and the
linger times, no pod and no Secret may be left. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec

from kernelproto.kubernetes import PodKernel
from kernelproto.launch.process.proc import command_line
from tests.kubernetes.conftest import Kernels
from tests.launch.kubernetes.cluster import Cluster

# The steps, and the longest time from each to the kill.
STEPS = {
    "pods": 0.03,
    "pods made": 0.0,
    "secrets": 0.03,
    "secrets made": 0.0,
    "wait": 0.5,
    "no node": 0.5,
    "host": 0.5,
    "reply": 0.3,
    "replied": 0.0,
    "ready": 0.0,
    "launched": 0.1,
}

# A host waits a minute for its first program, and a kernel as long for the end of its launch.
LEFT_SECONDS = 150.0

PROGRAM = """
import json, os, signal, sys, threading
import anyio
from kernelproto import KernelFinder, start_kernel
from kernelproto.client.client import KernelClient
from kernelproto.host.link import Link
from kernelproto.kubernetes import launch
from kernelproto.kubernetes.api import Connection

config, backend, kernel_type, detached, last, delay, params = json.loads(sys.argv[1])

def end():
    os.kill(os.getpid(), signal.SIGKILL)

def note(step):
    print(step, flush=True)
    if step == last:
        end() if not delay else threading.Timer(delay, end).start()

def noted(step, function):
    async def call(*arguments, **options):
        note(step)
        return await function(*arguments, **options)
    return call

create = Connection.create

async def noted_create(self, kind, body):
    note(kind)
    made = await create(self, kind, body)
    note(f"{kind} made")
    return made

async def main():
    finder = KernelFinder.from_entrypoints()
    finder.load_config({"kubernetes": config})
    await start_kernel(kernel_type, finder=finder, detached=detached, launch_params=params)
    note("launched")
    await anyio.sleep_forever()

first_answer = Link.first_answer

async def noted_answer(self):
    answer = await first_answer(self)
    note("replied")
    return answer

wait_for_ready = KernelClient.wait_for_ready

async def noted_ready(self):
    await wait_for_ready(self)
    note("ready")

Connection.create = noted_create
KernelClient.wait_for_ready = noted_ready
Link.first_answer = noted_answer
launch.wait_until_it_runs = noted("wait", launch.wait_until_it_runs)
launch.wait_for_host = noted("host", launch.wait_for_host)
launch.start_on = noted("reply", launch.start_on)
anyio.run(main, backend=backend)
"""


def kill_launches(kernels: Kernels, kills: int, choices: random.Random) -> bool:
    """Kill programs that launch kernels; print the steps, and return whether nothing is wrong."""
    settings = {
        "python": kernels.kernel(linger=5),
        "nowhere": kernels.kernel(node_selector={"disk": "none"}),
    }
    reached: Counter[str] = Counter()
    most = 0
    for number in range(kills):
        reached[kill_launch(kernels, settings, number, choices)] += 1
        most = max(most, most_kernels(kernels))
        report(f"killed {number + 1} programs, behind {dict(reached)}")
    anyio.run(launch_next, kernels, settings["python"])
    waiting = [pod["metadata"]["name"] for pod in kernels.pods() if not has_run(pod)]
    report(f"after the next launch, pods that wait: {waiting}")
    provider = kernels.provider(**settings)
    deadline = time.monotonic() + LEFT_SECONDS
    while not kernels.is_empty() and time.monotonic() < deadline:
        most = max(most, most_kernels(kernels))
        anyio.run(provider.remove_leftovers)
        time.sleep(1)
    left = [pod["metadata"]["name"] for pod in kernels.pods()], kernels.secrets()
    report(f"kernels in one pod: at most {most}; left behind: {left}")
    return not any((waiting, *left)) and most <= 1


def kill_launch(
    kernels: Kernels, settings: dict[str, PodKernel], number: int, choices: random.Random
) -> str:
    """Kill a program that launches a kernel; return its last step."""
    step = list(STEPS)[number % len(STEPS)]
    round_number = number // len(STEPS)
    name, last = ("nowhere", "wait") if step == "no node" else ("python", step)
    detached = round_number % 4 >= 2 and step != "launched"
    reached = run_and_kill(
        kernels,
        settings,
        name,
        last,
        backend=("asyncio", "trio")[round_number % 2],
        detached=detached,
        delay=0 if detached else choices.uniform(0, STEPS[step]),
    )
    return "no node" if step == "no node" else reached


def run_and_kill(
    kernels: Kernels,
    settings: dict[str, PodKernel],
    name: str,
    step: str,
    *,
    backend: str = "asyncio",
    detached: bool = True,
    delay: float = 0,
    params: dict[str, object] | None = None,
) -> str:
    """Kill a program that launches a kernel, some seconds behind a step; return its last step."""
    config = {"kubeconfig": kernels.kubeconfig, "kernels": msgspec.to_builtins(settings)}
    argument = [config, backend, f"kubernetes/{name}", detached, step, delay, params]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(argument)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=LEFT_SECONDS,
    )
    assert done.returncode == -signal.SIGKILL, done
    return done.stdout.splitlines()[-1]


async def launch_next(kernels: Kernels, kernel: PodKernel) -> None:
    _, manager = await kernels.provider(python=kernel).launch("python")
    await manager.cleanup()


def has_run(pod: dict[str, Any]) -> bool:
    return pod["status"]["phase"] != "Pending"


def most_kernels(kernels: Kernels) -> int:
    """Return the largest number of kernels in a pod."""
    return max(
        (
            sum(
                b"ipykernel_launcher" in command_line(pid)
                for pid in kernels.cluster.processes(pod["metadata"]["uid"])
            )
            for pod in kernels.pods()
        ),
        default=0,
    )


def report(text: str) -> None:
    sys.stdout.write(f"kubernetes: {text}\n")
    sys.stdout.flush()


def main(kills: int, seed: int) -> int:
    with closing(Cluster()) as cluster, tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(cluster, cluster.new_namespace(), Path(folder))
        return int(not kill_launches(kernels, kills, random.Random(seed)))


if __name__ == "__main__":
    sys.exit(main(*(int(given) for given in [*sys.argv[1:], "50", "1"][:2])))
