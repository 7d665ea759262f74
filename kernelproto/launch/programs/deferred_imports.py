"""Imports that an ipykernel makes at the start, although most kernels never need them.

ipykernel.py loads this file, which imports nothing of kernelproto. The debugger, and the parts of
jupyter_client for programs that start kernels, take a third of the CPU time of all imports. Here
both packages get a module in ``sys.modules`` that imports the real one on demand.

jupyter_client imports dateutil only to read the dates of messages. Here Python reads those in UTC,
and dateutil is imported for the first other one.

asyncio imports ssl, which a kernel does not use by itself. Here ssl, and the module of asyncio that
uses its names, run their code at the first access to a name.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, tzinfo
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

# With "0" in this variable of the kernel's environment, all imports are made at the start.
VARIABLE = "KERNELPROTO_DEFERRED_IMPORTS"

DEBUGGER = "ipykernel.debugger"

# The attributes that each import sets. Programs that list all modules ask for them.
IMPORTED = frozenset(
    ("__class__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__")
)

# The deferred modules whose code has not begun to run, and the lock for running it. No module that
# ssl and asyncio.sslproto import waits for either of them.
to_run: set[str] = set()
RUNNING = threading.RLock()


def defer_imports() -> None:
    """Defer the imports, unless they have been made or are switched off."""
    if os.environ.get(VARIABLE) == "0":
        return
    if "ssl" not in sys.modules and "asyncio" not in sys.modules:
        defer_ssl()
    if "jupyter_client" not in sys.modules:
        defer_jupyter_client()
    if DEBUGGER not in sys.modules and importlib.util.find_spec("debugpy") is not None:
        defer_debugger()


class DeferredModule(ModuleType):
    """A module that runs its code at the first access to a name that is not in IMPORTED."""

    def __getattribute__(self, name: str) -> Any:
        if name not in IMPORTED:
            run(self)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        run(self)
        ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        run(self)
        ModuleType.__delattr__(self, name)


def run(module: DeferredModule) -> None:
    """Run the code of a module, unless that has begun."""
    with RUNNING:
        if module.__name__ not in to_run:
            return
        to_run.remove(module.__name__)
        spec = module.__spec__
        assert spec is not None
        assert spec.loader is not None
        try:
            spec.loader.exec_module(module)
        except BaseException:
            to_run.add(module.__name__)
            raise
        ModuleType.__setattr__(module, "__class__", ModuleType)


def defer_ssl() -> None:
    """Import asyncio, and defer the code of ssl and asyncio.sslproto."""
    package = importlib.util.find_spec("asyncio")
    if package is None or importlib.util.find_spec("_ssl") is None:
        return
    folders = package.submodule_search_locations
    for name, path in (("ssl", None), ("asyncio.sslproto", folders)):
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            sys.modules[name] = importlib.util.module_from_spec(spec)
            sys.modules[name].__class__ = DeferredModule
            to_run.add(name)
    asyncio: Any = importlib.import_module("asyncio")
    asyncio.sslproto = sys.modules["asyncio.sslproto"]


def defer_jupyter_client() -> None:
    """Install a package jupyter_client that runs its code at the first access to a name.

    The modules of the package can be imported as always. ipykernel asks the package only for names
    of ``jupyter_client.connect``.
    """
    spec = importlib.util.find_spec("jupyter_client")
    if spec is None or spec.submodule_search_locations is None:
        return
    package = importlib.util.module_from_spec(spec)

    def get_attribute(name: str) -> Any:
        connect = importlib.import_module("jupyter_client.connect")
        if name in getattr(connect, "__all__", ()):
            return getattr(connect, name)
        module = f"jupyter_client.{name}"
        if not name.startswith("__") and importlib.util.find_spec(module) is not None:
            return importlib.import_module(module)
        # Python's own lock protects this import from imports in other threads.
        real = importlib.import_module("jupyter_client.__init__")
        package.__dict__.update(
            (key, value) for key, value in vars(real).items() if not key.startswith("__")
        )
        return getattr(real, name)

    def list_attributes() -> list[str]:
        return sorted({*vars(package), *vars(importlib.import_module("jupyter_client.__init__"))})

    add_functions(package, get_attribute, list_attributes)
    sys.modules["jupyter_client"] = package
    if "dateutil" not in sys.modules:
        defer_dateutil()
    mixin: Any = importlib.import_module("jupyter_client.connect").ConnectionFileMixin
    trait = mixin.class_traits().get("blocking_class")
    if trait is not None and trait.default_value == "jupyter_client.BlockingKernelClient":
        trait.default_value = DeferredClient


class DeferredClient:
    """Stands for the BlockingKernelClient of jupyter_client, which a call makes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("jupyter_client").BlockingKernelClient(*args, **kwargs)


def defer_dateutil() -> None:
    """Import the module of jupyter_client that uses dateutil, with functions in its place."""
    places: dict[str, dict[str, object]] = {
        "dateutil": {},
        "dateutil.parser": {"isoparse": parse_date},
        "dateutil.tz": {"tzlocal": local_timezone},
    }
    for name, functions in places.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(functions)
    try:
        importlib.import_module("jupyter_client.jsonutil")
    except ImportError:  # this version uses another function of dateutil
        sys.modules.pop("jupyter_client.jsonutil", None)
    finally:
        for name in places:
            del sys.modules[name]


def parse_date(text: str) -> datetime:
    """Parse an ISO 8601 date, as dateutil.parser.isoparse does."""
    if text.endswith(("Z", "+00:00")):
        with suppress(ValueError):  # older versions of Python parse 3 or 6 digits of a second
            return datetime.fromisoformat(text.removesuffix("Z").removesuffix("+00:00") + "+00:00")
    parsed: datetime = importlib.import_module("dateutil.parser").isoparse(text)
    return parsed


def local_timezone() -> tzinfo:
    """Return the timezone of this machine, as dateutil.tz.tzlocal does."""
    timezone: tzinfo = importlib.import_module("dateutil.tz").tzlocal()
    return timezone


def defer_debugger() -> None:
    """Put a module ipykernel.debugger in place, and have kernels make a DeferredDebugger."""
    spec = importlib.util.find_spec(DEBUGGER)
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__dict__["_is_debugpy_available"] = True

    def import_debugger() -> ModuleType:
        if sys.modules.get(DEBUGGER) is module:
            del sys.modules[DEBUGGER]
        return importlib.import_module(DEBUGGER)

    def get_attribute(name: str) -> Any:
        if name == "__path__":  # an import asks whether this is a package
            raise AttributeError(name)
        return getattr(import_debugger(), name)

    add_functions(module, get_attribute, lambda: dir(import_debugger()))
    sys.modules[DEBUGGER] = module
    kernel: Any = importlib.import_module("ipykernel.ipkernel").IPythonKernel
    trait = kernel.class_traits().get("debugger_class")
    if trait is not None and trait.default_value == f"{DEBUGGER}.Debugger":
        trait.klass, trait.default_value = object, DeferredDebugger


def add_functions(
    module: ModuleType,
    get_attribute: Callable[[str], Any],
    list_attributes: Callable[[], list[str]],
) -> None:
    """Have Python call functions for the attributes that a module lacks, and for ``dir``."""
    module.__dict__.update({"__getattr__": get_attribute, "__dir__": list_attributes})


class NoDebugger(Exception):
    """Ends ipykernel's loop that serves the events of the debugger, before there is one."""


class DeferredDebugger:
    """Stands for the Debugger of ipykernel, and makes the Debugger at the first use.

    The arguments are those of the Debugger.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.update(_arguments=(args, kwargs), _real=None)

    async def process_request(self, message: dict[str, Any]) -> Any:
        """Serve a debug_request."""
        return await self._debugger().process_request(message)

    async def handle_stopped_event(self) -> None:
        """Serve an event of the debugger; ipykernel calls this in a loop.

        Raises:
            NoDebugger: there is no debugger yet. The debugger will have a loop of its own.
        """
        if self._real is None:
            raise NoDebugger
        await self._real.handle_stopped_event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._debugger(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._debugger(), name, value)

    def _debugger(self) -> Any:
        """Return the real Debugger; make one if there is none."""
        if self._real is None:
            before = set(sys.modules)
            kind: Any = importlib.import_module(DEBUGGER).Debugger
            args, kwargs = self._arguments
            arguments = inspect.signature(kind).bind(*args, **kwargs).arguments
            # The debugger shows no frames of these modules, which are the kernel's.
            arguments["kernel_modules"] += [
                path
                for name in set(sys.modules) - before
                if isinstance(path := getattr(sys.modules.get(name), "__file__", None), str)
            ]
            self.__dict__["_real"] = kind(*args, **kwargs)
            stream = arguments.get("debugpy_stream")
            if stream is not None:
                stream.io_loop.add_callback(self._serve_events)
        return self._real

    async def _serve_events(self) -> None:
        while True:
            await self._real.handle_stopped_event()
