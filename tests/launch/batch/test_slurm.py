from __future__ import annotations

import signal

import pytest

from kernelproto.launch.batch.slurm import (
    parse_end,
    parse_jobs,
    parse_node_fault,
    parse_places,
    submit_command,
)
from kernelproto.launch.batch.system import Job, JobEnd, JobOptions

JOBS = """\
7|PENDING|n/a|N/A|kernelproto-a|(Resources)
8|RUNNING|n1|2026-11-30T02:00:00|kernelproto-b|None
9|COMPLETING|n1|2026-11-30T02:00:00|kernelproto-c|None
10|NODE_FAIL|n2|2026-11-30T02:00:00|kernelproto-d|NodeDown
11|RUNNING|n1|Unknown|a|b|None
garbage
"""


def test_jobs() -> None:
    jobs = parse_jobs(JOBS)
    assert {job_id: job.phase for job_id, job in jobs.items()} == {
        "7": "queued",
        "8": "running",
        "9": "ending",
        "10": "ended",
        "11": "running",
    }
    assert jobs["7"].reason == "Resources: the resources are in use"
    assert jobs["7"].node == ""
    assert jobs["8"].node == "n1"
    assert jobs["8"].ends_at is not None
    assert jobs["11"].ends_at is None
    assert jobs["8"].name == "kernelproto-b"


def test_places_count_by_partition() -> None:
    text = "5|all\n6|gpu\n7|all\n8|all\n"
    assert parse_places(text, ["7", "6", "99"]) == {"7": 2, "6": 1}


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("JobState=COMPLETED Reason=None ExitCode=0:0", JobEnd(returncode=0)),
        ("JobState=FAILED ExitCode=3:0", JobEnd(returncode=3)),
        ("JobState=FAILED ExitCode=0:9", JobEnd(returncode=-signal.SIGKILL)),
        (
            "JobState=TIMEOUT ExitCode=0:0 TimeLimit=00:01:00",
            JobEnd(reason="its job reached its time limit of 00:01:00: ask for more time"),
        ),
        (
            "JobState=NODE_FAIL ExitCode=1:0 BatchHost=n1",
            JobEnd(reason="the node of its job failed (n1)"),
        ),
        (
            "JobState=OUT_OF_MEMORY ExitCode=0:125",
            JobEnd(
                returncode=-125,
                reason="its job used up its memory: ask for more",
                cause="memory_limit",
            ),
        ),
        ("JobId=5 JobName=x Comment=JobState", JobEnd()),
    ],
)
def test_ends(text: str, end: JobEnd) -> None:
    assert parse_end(text) == end


@pytest.mark.parametrize("state", ["IDLE", "MIXED", "ALLOCATED+DRAIN", "IDLE+CLOUD"])
def test_nodes_that_answer(state: str) -> None:
    assert parse_node_fault(f"NodeName=n1 Arch=x State={state} ThreadsPerCore=1") is None


@pytest.mark.parametrize("state", ["MIXED+NOT_RESPONDING", "DOWN+NOT_RESPONDING", "DOWN*", "IDLE*"])
def test_nodes_that_do_not_answer(state: str) -> None:
    assert parse_node_fault(f"NodeName=n1 Arch=x State={state} ThreadsPerCore=1") == (
        f"the node n1 of its job does not answer Slurm, and is {state}"
    )


def test_command_line() -> None:
    options = JobOptions(partition="a,b", account="c", time=5, memory=100, cpus=2, gpus=1)
    job = Job(name="kernelproto-1", script="", folder="/f", output="/f/100%", options=options)
    assert submit_command(job) == [
        "sbatch",
        "--parsable",
        "--no-requeue",
        "--nodes=1",
        "--ntasks=1",
        "--job-name=kernelproto-1",
        "--chdir=/f",
        "--output=/f/100%%",
        "--open-mode=append",
        "--partition=a,b",
        "--account=c",
        "--time=5",
        "--mem=100M",
        "--cpus-per-task=2",
        "--gpus=1",
    ]
