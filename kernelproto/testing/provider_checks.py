"""check_kernel_provider: checks a KernelProvider against the contract in ``interfaces``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from kernelproto.client import KernelClient, open_client
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    InvalidLaunchParameter,
    KernelDied,
    KernelProtoError,
    LaunchError,
    NoSuchKernel,
    UnsupportedRequest,
)
from kernelproto.interfaces import (
    Adopts,
    BringsChannels,
    KernelAttributes,
    KernelManager,
    KernelProvider,
    OpenChannels,
)
from kernelproto.launch.failures import describe_exit
from kernelproto.testing.adoption_checks import check_adoption
from kernelproto.testing.contract import checking, require, require_type
from kernelproto.testing.manager_checks import check_kernel_manager
from kernelproto.transport import open_channels as open_zmq_channels
from kernelproto.wire.connection import ConnectionInfo

_VARIABLE = "KERNELPROTO_CHECK"


@dataclass(frozen=True, kw_only=True)
class Snippets:
    """Code in a kernel's language, for checks that inspect the kernel; None skips a check.

    Args:
        env: prints the environment variable KERNELPROTO_CHECK.
        cwd: prints the working directory.
        endless: prints something, then runs until an interrupt.
    """

    env: str | None = None
    cwd: str | None = None
    endless: str | None = None


PYTHON = Snippets(
    env=f"import os; print(os.environ[{_VARIABLE!r}])",
    cwd="import os; print(os.getcwd())",
    endless="import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)",
)


async def check_kernel_provider(
    provider: KernelProvider,
    name: str | None = None,
    *,
    snippets: Snippets = PYTHON,
    patience: float = 60.0,
) -> None:
    """Check a provider and the provider's managers against the contracts in ``interfaces``.

    Launches about thirty kernels, a few of which must become ready. During the check, nothing else
    in this program may start processes or open files. If the provider adopts kernels, each kernel
    has to outlive this program, see check_adoption().

    Args:
        provider: the provider.
        name: the kernel type to launch; by default the first that the provider finds.
        snippets: code in that kernel's language.
        patience: seconds after which a call counts as hanging.

    Raises:
        AssertionError: the provider violates a requirement, which the text names.
    """
    names = await _check_discovery(provider, patience)
    name = name or next(iter(names), "")
    require(name in names, f"find_kernels() finds the kernel type {name!r}", names)
    kernels = _Kernels(provider, name, snippets, patience)
    await _launch_gives_a_connection_and_a_manager(kernels)
    # Check the managers first: the other checks rely on them.
    await check_kernel_manager(partial(provider.launch, name), patience=patience)
    for check in _CHECKS:
        await check(kernels)
    if isinstance(provider, Adopts):
        await check_adoption(provider, partial(provider.launch, name), patience=patience)


async def _check_discovery(provider: KernelProvider, patience: float) -> list[str]:
    """Run the checks that need no launch; return the names of the kernel types."""
    require_type(provider, KernelProvider, "it has all that a KernelProvider has")
    require(_is_plain(provider.id), "id is a plain name, without a slash", provider.id)
    requirement = "find_kernels() gives pairs of a name and attributes"
    with checking(requirement, patience):
        found = [kernel async for kernel in provider.find_kernels()]
        kernels = [(name, attributes) for name, attributes in found]
    for name, attributes in kernels:
        requirement = "find_kernels() gives plain names, without the provider's id"
        require(_is_path(name) and not name.startswith(f"{provider.id}/"), requirement, name)
        for key, value in attributes.items():
            requirement = f"the attribute {key!r} has the type declared in KernelAttributes"
            require(_as_declared(key, value), requirement, value)
    names = [name for name, _ in kernels]
    require(len({*names}) == len(names), "find_kernels() gives every name once", names)
    requirement = "find_kernels() gives the same names again"
    with checking(requirement, patience):
        again = [name async for name, _ in provider.find_kernels()]
    require(sorted(again) == sorted(names), requirement, again)
    return names


@dataclass(frozen=True)
class _Kernels:
    """Launches the kernels for the checks."""

    provider: KernelProvider
    name: str
    snippets: Snippets
    patience: float

    def checking(self, requirement: str) -> AbstractContextManager[None]:
        return checking(requirement, self.patience)

    @asynccontextmanager
    async def launched(
        self, requirement: str = "launch() starts a kernel", **options: Any
    ) -> AsyncGenerator[tuple[ConnectionInfo, KernelManager]]:
        """Launch a kernel for the block."""
        with self.checking(requirement):
            info, manager = await self.provider.launch(self.name, **options)
        try:
            yield info, manager
        finally:
            with anyio.move_on_after(self.patience, shield=True):
                await manager.cleanup()

    @asynccontextmanager
    async def ready(self, **options: Any) -> AsyncGenerator[tuple[KernelManager, KernelClient]]:
        """Launch a kernel for the block, connect a client and wait until the kernel is ready."""
        async with self.launched(**options) as (info, manager):
            open_channels: OpenChannels = open_zmq_channels
            if isinstance(manager, BringsChannels):
                open_channels = manager.open_channels
            async with (
                open_client(info, open_channels=open_channels) as client,
                background_tasks() as tasks,
            ):
                tasks.start_soon(_report_death, manager, client)
                with self.checking("a launched kernel gets ready"):
                    await client.wait_for_ready()
                yield manager, client

    async def refuses(
        self, refusal: type[KernelProtoError], what: str, name: str | None = None, **options: Any
    ) -> None:
        """Check that a launch is refused with the right exception."""
        requirement = f"launch() raises {refusal.__name__} for {what}"
        with self.checking(requirement):
            try:
                _, manager = await self.provider.launch(name or self.name, **options)
            except refusal:
                return
            await manager.cleanup()
        require(False, requirement, "a kernel")


async def _launch_gives_a_connection_and_a_manager(kernels: _Kernels) -> None:
    async with kernels.launched() as (info, manager), kernels.launched() as (other, _):
        require_type(info, ConnectionInfo, "launch() returns a ConnectionInfo first")
        require_type(manager, KernelManager, "launch() returns a KernelManager second")
        differ = info.key != other.key and info.endpoint("shell") != other.endpoint("shell")
        require(differ, "every kernel has a key and addresses of its own", info)


async def _kernel_answers(kernels: _Kernels) -> None:
    async with kernels.ready() as (_, client):
        with kernels.checking("a launched kernel answers kernel_info_request"):
            reply = await client.kernel_info()
        known = bool(reply.protocol_version and reply.language_info.name)
        require(known, "kernel_info_reply has a protocol version and a language", reply)
        requirement = "a launched kernel executes"
        with kernels.checking(requirement):
            result = await client.execute("")
        require(result.status == "ok", requirement, result)


async def _environment_arrives(kernels: _Kernels) -> None:
    if kernels.snippets.env is not None:
        await _check_output(
            kernels,
            kernels.snippets.env,
            "it has arrived",
            "launch_params['env'] reaches the kernel",
            launch_params={"env": {_VARIABLE: "it has arrived"}},
        )


async def _working_directory_arrives(kernels: _Kernels) -> None:
    if kernels.snippets.cwd is not None:
        with tempfile.TemporaryDirectory() as folder:
            await _check_output(
                kernels,
                kernels.snippets.cwd,
                str(await anyio.Path(folder).resolve()),
                "cwd is the kernel's working directory",
                cwd=folder,
            )


async def _interrupt_arrives(kernels: _Kernels) -> None:
    if kernels.snippets.endless is None:
        return
    requirement = "interrupt() interrupts running code and nothing else"
    async with kernels.ready() as (manager, client):
        with kernels.checking(requirement):
            async with client.execute(kernels.snippets.endless) as execution:
                await anext(execution)
                await _interrupt(manager, client)
                result = await execution
            require(result.status == "error", requirement, result)
            require(await manager.is_alive(), requirement, "the end of the kernel")


async def _transport_is_chosen(kernels: _Kernels) -> None:
    for transport in ("tcp", "ipc"):
        requirement = f"launch_params['transport'] = {transport!r} is obeyed or refused"
        with kernels.checking(requirement):
            try:
                info, manager = await kernels.provider.launch(
                    kernels.name, launch_params={"transport": transport}
                )
            except LaunchError:
                continue
            await manager.cleanup()
        require(info.transport == transport, requirement, info)


async def _unfit_launches_are_refused(kernels: _Kernels) -> None:
    await kernels.refuses(NoSuchKernel, "an unknown kernel type", name="no-such-kernel-type")
    await kernels.refuses(LaunchError, "a cwd that is not there", cwd=os.path.join(os.devnull, "x"))
    for params in ({"env": "text"}, {"env": {"NAME": 1}}, {"transport": "pigeon"}):
        await kernels.refuses(
            InvalidLaunchParameter, f"launch_params={params}", launch_params=params
        )


_CHECKS: Sequence[Callable[[_Kernels], Awaitable[None]]] = (
    _kernel_answers,
    _environment_arrives,
    _working_directory_arrives,
    _interrupt_arrives,
    _transport_is_chosen,
    _unfit_launches_are_refused,
)


async def _check_output(
    kernels: _Kernels, snippet: str, expected: str, requirement: str, **options: Any
) -> None:
    async with kernels.ready(**options) as (_, client):
        with kernels.checking(requirement):
            result = await client.execute(snippet)
        require(result.stdout.strip() == expected, requirement, result)


async def _report_death(manager: KernelManager, client: KernelClient) -> None:
    status = await manager.wait()
    client.fail(KernelDied(f"the kernel died: {describe_exit(status)}", returncode=status))


async def _interrupt(manager: KernelManager, client: KernelClient) -> None:
    try:
        await manager.interrupt()
    except UnsupportedRequest:
        await client.interrupt()


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]+", name) is not None


def _is_path(name: object) -> bool:
    """Return whether a name is plain names with slashes between them."""
    return isinstance(name, str) and all(map(_is_plain, name.split("/")))


def _as_declared(key: str, value: object) -> bool:
    """Return whether an attribute has the type declared in KernelAttributes."""
    if key in ("env", "metadata", "resources"):
        return isinstance(value, Mapping)
    if key == "argv":
        return isinstance(value, Sequence) and not isinstance(value, str)
    if key == "interrupt_mode":
        return value in ("signal", "message")
    return key not in KernelAttributes.__optional_keys__ or isinstance(value, str)
