"""What runs in such a kernel sees an ipykernel; tests/integration/test_flood.py has its purpose."""

from __future__ import annotations

import ast
import os
from importlib.util import find_spec

import pytest

from kernelproto import run_kernel
from kernelproto.launch import ipykernel_process

pytestmark = pytest.mark.anyio

PROGRAM = """
import os, sys
from ipykernel.kernelapp import IPKernelApp
sys.argv[0], IPKernelApp.initialized(), IPKernelApp.instance().kernel is get_ipython().kernel
"""


@pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
async def test_looks_like_any_other_ipykernel(kernel_type: str) -> None:
    async with run_kernel(kernel_type) as kernel:
        program = (await kernel.execute(PROGRAM)).raise_for_error().text or ""
        folders = (await kernel.execute("[os.path.realpath(p) for p in sys.path]")).text
    launcher = find_spec("ipykernel_launcher")
    assert launcher is not None
    assert ast.literal_eval(program) == (launcher.origin, True, True)
    assert folders is not None
    assert os.path.dirname(ipykernel_process.__file__) not in folders


async def test_options_reach_it() -> None:
    options = {"extra_arguments": ["--InteractiveShell.xmode=Plain"]}
    async with run_kernel("pyimport/kernel", launch_params=options) as kernel:
        result = await kernel.execute("get_ipython().InteractiveTB.mode")
    assert result.text == "'Plain'"
