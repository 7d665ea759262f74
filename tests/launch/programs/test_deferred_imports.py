"""Code in a kernel can use the deferred modules as if they had been imported at the start."""

from __future__ import annotations

import ast

import pytest
from dateutil.parser import isoparse

from kernelproto import run_kernel
from kernelproto.launch.programs import deferred_imports

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])

DEFERRED = ["_ssl", "dateutil", "debugpy", "ipykernel.debugger.Debugger", "jupyter_client.manager"]
LOADED = """
import sys
sorted(
    {"_ssl", "dateutil", "debugpy", "jupyter_client.manager"} & set(sys.modules)
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
    "ssl = __import__('ssl'); ssl._create_default_https_context = ssl._create_unverified_context",
    "import http.client; http.client.ssl._create_default_https_context.__name__",
    "import asyncio.sslproto; asyncio.sslproto.SSLProtocol, asyncio.sslproto.ssl is ssl",
    "import inspect; type(ssl), inspect.getsourcefile(ssl), ssl.__doc__",
    "import dateutil.parser as p, dateutil.tz; p.isoparse.__qualname__, dateutil.tz.tzlocal",
    "get_ipython().kernel.get_parent()['header']['date'].utcoffset()",
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
        "from ssl import *; SSLContext",
        "import ssl; ssl.nothing = 1; ssl.nothing, ssl.SSLContext",
        "import ssl; del ssl.SSLContext; hasattr(ssl, 'SSLContext')",
        "import ssl; 'SSLContext' in vars(ssl), 'SSLContext' in dir(ssl)",
        "import importlib, ssl; importlib.reload(ssl).SSLContext",
        "import asyncio; asyncio.sslproto.SSLProtocol",
        "import asyncio; asyncio.base_events.sslproto.SSLProtocol",
        "import asyncio; asyncio.selector_events.ssl.SSLContext",
    ],
)
async def test_first_use(use: str) -> None:
    assert len(await values_of([use], "1")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30T21:48:05Z",
        "2026-11-30T21:48:05.123456Z",
        "2026-11-30T21:48:05.123Z",
        "2026-11-30T21:48:05.1Z",
        "2026-11-30T21:48:05.12345Z",
        "2026-11-30T21:48:05.123456+00:00",
        "2026-11-30T21:48:05.123456+0000",
        "2026-11-30T21:48:05.123456-05:30",
        "2026-11-30T21:48:05",
    ],
)
def test_dates_are_those_of_dateutil(text: str) -> None:
    ours, theirs = deferred_imports.parse_date(text), isoparse(text)
    assert (ours, ours.utcoffset()) == (theirs, theirs.utcoffset())


@pytest.mark.parametrize("text", ["2026-13-30T21:48:05Z", "2026-11-30T25:48:05Z"])
def test_dates_that_do_not_exist_are_refused_as_dateutil_does(text: str) -> None:
    with pytest.raises(ValueError, match="must be in"):
        deferred_imports.parse_date(text)
