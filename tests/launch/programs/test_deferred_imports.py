"""Code in a kernel can use the deferred modules as if they had been imported at the start."""

from __future__ import annotations

import ast

import pytest

from kernelproto import run_kernel
from kernelproto.launch.programs import deferred_imports

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])

DEFERRED = ["debugpy", "ipykernel.debugger.Debugger", "jupyter_client.manager"]
LOADED = """
import sys
sorted(
    {"debugpy", "jupyter_client.manager"} & set(sys.modules)
    | {"ipykernel.debugger.Debugger"} & {
        f"ipykernel.debugger.{name}" for name in vars(sys.modules["ipykernel.debugger"])
    }
)
"""

# Each piece of code has the same value in any ipykernel.
USES = [
    "import jupyter_client; jupyter_client.__version__",
    "import jupyter_client; jupyter_client.kernelspec.__name__",
    "from jupyter_client import KernelManager; KernelManager.__module__",
    "from jupyter_client import *; KernelClient.__name__, 'BlockingKernelClient' in globals()",
    "import jupyter_client; {'run_kernel', 'manager', '__version__'} <= set(dir(jupyter_client))",
    "import jupyter_client.manager as m; m.KernelManager is jupyter_client.KernelManager",
    "hasattr(__import__('jupyter_client'), 'nothing')",
    "import ipykernel.debugger as d; d._is_debugpy_available, d.Debugger.__name__",
    "from ipykernel.debugger import Debugger; Debugger.__module__",
    "get_ipython().kernel.debugger.just_my_code",
    "get_ipython().kernel.debugger.is_started",
    "type(get_ipython().parent.parent.blocking_client()).__module__",
    "import importlib.util; importlib.util.find_spec('ipykernel.debugger').origin",
]


async def values_of(uses: list[str], variable: str) -> list[object]:
    env = {deferred_imports.VARIABLE: variable}
    async with run_kernel("pyimport/kernel", env=env) as kernel:
        info = await kernel.kernel_info()
        loaded = ast.literal_eval((await kernel.execute(LOADED)).text or "")
        assert loaded == ([] if variable == "1" else sorted(DEFERRED))
        values = [(await kernel.execute(use)).raise_for_error().text for use in uses]
    return [info.supported_features, *values]


@ONE_LOOP
async def test_code_finds_no_difference() -> None:
    assert await values_of(USES, "1") == await values_of(USES, "0")


@ONE_LOOP
@pytest.mark.parametrize(
    "use",
    [
        *USES[:5],
        "import jupyter_client.manager; jupyter_client.KernelManager.__name__",
        "from jupyter_client.multikernelmanager import MultiKernelManager",
        "from jupyter_client.consoleapp import JupyterConsoleApp",
    ],
)
async def test_first_use(use: str) -> None:
    assert len(await values_of([use], "1")) == 2
