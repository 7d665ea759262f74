from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kernelproto.exceptions import DiscoveryError, KernelInUse
from kernelproto.launch.leftovers.claims import Ownership, add_claim, latest_claim, remove_claims
from kernelproto.launch.process.process_id import ProcessId

pytestmark = pytest.mark.usefixtures("no_leaks")

ID = "11111111-2222-4333-8444-555555555555"
US = ProcessId.of(os.getpid())
DEAD = ProcessId(os.getpid(), "1", US.machine)  # with the number of this process


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Give the path of a record."""
    return str(tmp_path / f"{ID}.json")


def ownership(path: str, first_owner: ProcessId = DEAD) -> Ownership:
    return Ownership(path, ID, first_owner, detached=True)


def names(path: str) -> set[str]:
    return {name.rpartition("-")[2] for name in os.listdir(os.path.dirname(path))}


def test_first_owner(path: str) -> None:
    assert ownership(path, US).holder == US
    assert ownership(path, DEAD).holder is None
    with pytest.raises(KernelInUse):
        ownership(path, US).claim()
    assert latest_claim(path) is None


def test_claim_and_release(path: str) -> None:
    kernel = ownership(path)
    for _ in range(5):
        kernel.claim()
        assert kernel.holder == US
        with pytest.raises(KernelInUse, match="which is this program"):
            kernel.claim()
        kernel.release()
        assert kernel.holder is None
    assert names(path) == {"9", "10"}
    remove_claims(path)
    assert names(path) == set()


def test_only_one_claim_follows_another(path: str) -> None:
    first = add_claim(path, DEAD, after=None)
    assert add_claim(path, US, after=None) is None
    second = add_claim(path, US, after=first)
    assert add_claim(path, DEAD, after=first) is None
    assert latest_claim(path) == second


def test_claim_after_a_removed_one_is_withdrawn(path: str) -> None:
    claims = [add_claim(path, DEAD, after=None)]
    for _ in range(4):
        claims.append(add_claim(path, DEAD, after=claims[-1]))
    assert add_claim(path, US, after=claims[0]) is None
    assert latest_claim(path) == claims[-1]
    assert names(path) == {"4", "5"}


def test_owner_on_another_machine(path: str) -> None:
    machine = msgspec.structs.replace(US.machine, host="far", pid_namespace="another")
    add_claim(path, ProcessId(1, "1", machine), after=None)
    with pytest.raises(KernelInUse, match="process 1 on another machine, 'far'"):
        ownership(path).claim()


@pytest.mark.parametrize("target", ["{}", "nonsense", '{"pid":-1}'])
def test_claim_that_says_nothing(path: str, target: str) -> None:
    os.symlink(target, path.replace(".json", ".claim-1"))
    with pytest.raises(DiscoveryError, match=f"the owner of kernel {ID} cannot be read"):
        ownership(path).claim()
    assert ownership(path, US).holder == US


def test_file_that_is_no_claim(path: str) -> None:
    Path(path.replace(".json", ".claim-1")).touch()
    with pytest.raises(DiscoveryError, match="not a claim of this user"):
        ownership(path).claim()


# Each round is a fork of its own, which claims the kernel, is alone with it, and releases it or is
# killed.
CONTENDER = """
import os, signal, sys
from kernelproto.exceptions import KernelInUse
from kernelproto.launch.leftovers.claims import Ownership
from kernelproto.launch.process.process_id import ProcessId

path, mark = sys.argv[1:]
us = ProcessId.of(os.getpid())
kernel = Ownership(path, "one", ProcessId(us.pid, "1", us.machine), detached=True)

def own(is_killed):
    while True:
        try:
            kernel.claim()
            break
        except KernelInUse:
            pass
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    os.unlink(mark)
    if is_killed:
        os.kill(os.getpid(), signal.SIGKILL)
    kernel.release()

for round in range(20):
    pid = os.fork()
    if pid == 0:
        try:
            own(round % 2)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != -signal.SIGKILL * (round % 2):
        sys.exit(f"round {round} ended with {status}")
"""


def test_contenders_never_own_it_together(path: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER, path, str(tmp_path / "mark")]
    contenders = [subprocess.Popen(command) for _ in range(4)]
    assert [contender.wait() for contender in contenders] == [0] * 4
