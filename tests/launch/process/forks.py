"""Forked kernels: functions that several tests of the fork server need."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

from kernelproto import KernelFinder
from kernelproto.launch.process.forked import ForkedProcess
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.providers import ForkServerProvider


def finder(*preload: str) -> KernelFinder:
    return KernelFinder([ForkServerProvider(preload)])


async def evaluate(kernel, code: str) -> object:
    result = await kernel.execute(code)
    return ast.literal_eval(result.raise_for_error().text)


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def fork(server: ForkServer, *arguments: str, **variables: str) -> ForkedProcess:
    """Fork the program of a kernel."""
    command = [sys.executable, ipykernel.__file__, *arguments]
    env = {**os.environ, **variables}
    with open(os.devnull, "wb", buffering=0) as output:  # noqa: ASYNC230
        return await server.fork(command, env=env, cwd=None, output=output)
