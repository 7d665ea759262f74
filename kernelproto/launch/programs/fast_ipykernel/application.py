"""An application that runs an ipykernel with all hooks that fit the installed version."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from . import (
    configuration,
    execution,
    frames,
    history,
    history_session,
    history_write,
    logs,
    modules,
    network,
    psutil_imports,
    publishing,
    sending,
    session,
    shell_channel,
    streams,
)
from .hook import (
    HISTORY_MANAGER,
    IOPUB_THREAD,
    KERNEL,
    OUT_STREAM,
    SAVING_THREAD,
    SESSION,
    SHELL,
    Hook,
    find,
    misfit,
)

# Names the hooks that stay off, separated by commas, or "all".
VARIABLE = "KERNELPROTO_STOCK_IPYKERNEL"

HOOKS: tuple[Hook, ...] = (
    streams.FLUSH,
    publishing.HOOK,
    streams.TIMER,
    streams.WRITE,
    execution.REPLY,
    session.HOOK,
    sending.HOOK,
    history.HOOK,
    history_session.HOOK,
    history_write.HOOK,
    logs.HOOK,
    execution.PARAMETERS,
    execution.TRANSFORM,
    execution.FORMAT,
    shell_channel.FORWARD,
    shell_channel.STREAM,
    network.HOOK,
    frames.HOOK,
    configuration.HOOK,
    psutil_imports.ADDRESS,
    psutil_imports.CHILDREN,
    modules.FILES,
    modules.NAMES,
)


def examine(environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the reason why each hook is off; None for those that are on.

    Args:
        environ: environment variables; VARIABLE switches hooks off.

    Raises:
        ValueError: VARIABLE names a hook that does not exist.
    """
    off = {name.strip() for name in environ.get(VARIABLE, "").split(",")} - {""}
    reasons = misfits()
    if unknown := sorted(off.difference(reasons, ["all"])):
        raise ValueError(
            f"{VARIABLE} names {unknown[0]}, which is no hook; "
            f'set it to "all", or to some of {",".join(reasons)}'
        )
    return {
        name: f"switched off by {VARIABLE}" if off & {name, "all"} else reason
        for name, reason in reasons.items()
    }


@cache
def misfits() -> Mapping[str, str | None]:
    """Return the reason why the installed ipykernel does not fit each hook; None if it fits."""
    return {hook.name: misfit(hook) for hook in HOOKS}


def report() -> str:
    """Return as JSON the reason why each hook is off, null for those that are on.

    Raises:
        ValueError: VARIABLE names a hook that does not exist.
    """
    return json.dumps(examine())


def prepare(application: Any) -> Any:
    """Return the class that ``fast`` returns in this environment, and change nothing.

    A fork server calls this once it has loaded all modules, so that its kernels neither make the
    classes nor list the modules.

    Args:
        application: the class IPKernelApp.

    Raises:
        ValueError: VARIABLE names a hook that does not exist.
    """
    modules.list_modules()
    return extended_application(application, fitting())[0]


def fast(application: Any) -> Any:
    """Return a subclass of ipykernel's application that uses the hooks that fit.

    Args:
        application: the class IPKernelApp.

    Raises:
        ValueError: VARIABLE names a hook that does not exist.
    """
    fast_application, classes = extended_application(application, fitting())
    if OUT_STREAM in classes:
        vars(sys.modules[__name__])["OutStream"] = classes[OUT_STREAM]
    # ipykernel and IPython look these up by their names when they make an object.
    for place, user in (
        (IOPUB_THREAD, "ipykernel.kernelapp"),
        (SAVING_THREAD, "IPython.core.history"),
        (HISTORY_MANAGER, "IPython.core.interactiveshell"),
    ):
        if place in classes:
            setattr(find(user), place.rpartition(":")[2], classes[place])
    return fast_application


def fitting() -> frozenset[str]:
    """Return the names of the hooks that are on."""
    return frozenset(name for name, reason in examine().items() if reason is None)


@cache
def extended_application(application: Any, names: frozenset[str]) -> tuple[Any, Mapping[str, Any]]:
    """Return the subclass of an application that uses some hooks, and the classes of the hooks.

    Args:
        application: the class IPKernelApp.
        names: the names of the hooks.
    """
    hooks = [hook for hook in HOOKS if hook.name in names]
    if not hooks:
        return application, {}
    places = {place for hook in hooks for place in hook.mixins}
    classes = {place: extended(place, hooks) for place in places - {KERNEL}}
    if SHELL in classes:

        def shell_class(_: Any) -> Any:
            return classes[SHELL]

        classes[KERNEL] = extended(KERNEL, hooks, _shell_class_default=shell_class)
    elif KERNEL in places:
        classes[KERNEL] = extended(KERNEL, hooks)

    class FastKernelApp(application):  # type: ignore[misc]
        if OUT_STREAM in classes:

            def _outstream_class_default(self) -> str:
                return f"{__name__}.OutStream"

        if SESSION in classes:

            def _session_default(self) -> Any:
                return classes[SESSION](parent=self)

        if KERNEL in classes:

            def _kernel_class_default(self) -> Any:
                return classes[KERNEL]

        def initialize(self, argv: list[str] | None = None) -> None:
            for hook in hooks:
                if hook.install is not None:
                    hook.install(self)
            stock: Any = super()
            stock.initialize(argv)

    return FastKernelApp, classes


def extended(place: str, hooks: list[Hook], **attributes: Any) -> Any:
    """Return a subclass of the class at a place, with the additions of the hooks.

    The subclass has the name and the module of its base: programs recognise a kernel by them.
    """
    base = find(place)
    mixins = [hook.mixins[place] for hook in hooks if place in hook.mixins]
    for name in ("__module__", "__qualname__", "__doc__"):
        attributes[name] = getattr(base, name)
    return type(base)(base.__name__, (*mixins, base), attributes)
