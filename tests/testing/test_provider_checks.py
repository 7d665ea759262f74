from __future__ import annotations

import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from kernelproto.exceptions import NoSuchKernel, UnsupportedRequest
from kernelproto.launch.providers import IPykernelProvider, KernelSpecProvider
from kernelproto.testing import (
    PYTHON,
    FakeProvider,
    Snippets,
    check_kernel_provider,
)
from kernelproto.wire.content import KernelInfoReply

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 1


class WithoutLaunch(FakeProvider):
    launch = None


class SlashInId(FakeProvider):
    id = "fake/"


class Finding(FakeProvider):
    """Finds the given kernel types."""

    found: tuple[object, ...] = (("kernel", {}),)

    async def find_kernels(self):
        for pair in self.found:
            yield pair


class NamesAlone(Finding):
    found = ("kernel",)


class FullName(Finding):
    found = (("fake/kernel", {}),)


class SameNameTwice(Finding):
    found = (
        ("kernel", {}),
        ("kernel", {}),
    )


class ArgvInOnePiece(Finding):
    found = (("kernel", {"argv": "kernel -f {connection_file}"}),)


class EnvInPairs(Finding):
    found = (("kernel", {"env": [("A", "1")]}),)


class OddInterruptMode(Finding):
    found = (("kernel", {"interrupt_mode": "shout"}),)


class PathToResources(Finding):
    found = (("kernel", {"resource_dir": Path("/")}),)


class FindsNothing(Finding):
    found = ()


class FindsOnce(FakeProvider):
    found = False

    async def find_kernels(self):
        if not self.found:
            self.found = True
            yield "kernel", {}


class FailsToFind(FakeProvider):
    async def find_kernels(self):
        raise OSError("the disk is gone")
        yield


class Launching(FakeProvider):
    """Base of the mutants below: each one changes the launch or its result."""

    def altered(self, info, manager):
        return info, manager

    async def launch(self, name, *, cwd=None, launch_params=None):
        return self.altered(*await super().launch(name, cwd=cwd, launch_params=launch_params))


class ManagerFirst(Launching):
    def altered(self, info, manager):
        return manager, manager


class ManagerWithoutWait(Launching):
    def altered(self, info, manager):
        manager.wait = None
        return info, manager


class SharedKey(Launching):
    def altered(self, info, manager):
        return msgspec.structs.replace(info, key="key"), manager


class Mute(Launching):
    def altered(self, info, manager):
        manager.kernel.deaf = {"shell", "control"}
        return info, manager


class WithoutLanguage(Launching):
    def altered(self, info, manager):
        manager.kernel.on("kernel_info_request", KernelInfoReply(protocol_version="5.5"))
        return info, manager


class FailingCode(Launching):
    def altered(self, info, manager):
        manager.kernel.on_execute("", error=("RuntimeError", "no code, no result"))
        return info, manager


class EnvLost(Launching):
    async def launch(self, name, *, cwd=None, launch_params=None):
        return await super().launch(name, cwd=cwd, launch_params={})


class DeadlyInterrupt(Launching):
    def altered(self, info, manager):
        manager.interrupt = manager.terminate
        return info, manager


class IdleInterrupt(Launching):
    def altered(self, info, manager):
        manager.interrupt = manager.is_alive
        return info, manager


class AlwaysTcp(Launching):
    def altered(self, info, manager):
        return msgspec.structs.replace(info, transport="tcp"), manager


class AnyName(Launching):
    async def launch(self, name, *, cwd=None, launch_params=None):
        return await super().launch("kernel", cwd=cwd, launch_params=launch_params)


class KeyErrorForUnknown(Launching):
    async def launch(self, name, *, cwd=None, launch_params=None):
        try:
            return await super().launch(name, cwd=cwd, launch_params=launch_params)
        except NoSuchKernel:
            raise KeyError(name) from None


class AnyFolder(Launching):
    async def launch(self, name, *, cwd=None, launch_params=None):
        cwd = cwd if cwd is None or await anyio.Path(cwd).is_dir() else None
        return await super().launch(name, cwd=cwd, launch_params=launch_params)


class AnyParameters(Launching):
    async def launch(self, name, *, cwd=None, launch_params=None):
        env = (launch_params or {}).get("env")
        if env == "text":
            launch_params = {}
        return await super().launch(name, cwd=cwd, launch_params=launch_params)


class CleanupOfNothing(Launching):
    def altered(self, info, manager):
        manager.cleanup = manager.is_alive
        return info, manager


MUTANTS = {
    WithoutLaunch: "it has all that a KernelProvider has",
    SlashInId: "id is a plain name, without a slash: found 'fake/'",
    NamesAlone: "find_kernels() gives pairs of a name and attributes",
    FullName: "find_kernels() gives plain names, without the provider's id: found 'fake/kernel'",
    SameNameTwice: "find_kernels() gives every name once",
    ArgvInOnePiece: "the attribute 'argv' has the type declared in KernelAttributes",
    EnvInPairs: "the attribute 'env' has the type declared in KernelAttributes",
    OddInterruptMode: "the attribute 'interrupt_mode' has the type declared in KernelAttributes",
    PathToResources: "the attribute 'resource_dir' has the type declared in KernelAttributes",
    FindsNothing: "find_kernels() finds the kernel type ''",
    FindsOnce: "find_kernels() gives the same names again",
    FailsToFind: "it raised OSError('the disk is gone')",
    ManagerFirst: "launch() returns a ConnectionInfo first",
    ManagerWithoutWait: "launch() returns a KernelManager second",
    SharedKey: "every kernel has a key and addresses of its own",
    Mute: "a launched kernel gets ready: not within 1 s",
    WithoutLanguage: "kernel_info_reply has a protocol version and a language",
    FailingCode: "a launched kernel executes: found ExecutionResult(status='error'",
    EnvLost: "launch_params['env'] reaches the kernel",
    DeadlyInterrupt: "interrupt() interrupts running code and nothing else: it raised KernelDied",
    IdleInterrupt: "interrupt() interrupts running code and nothing else: not within 1 s",
    AlwaysTcp: "launch_params['transport'] = 'ipc' is obeyed or refused",
    AnyName: "launch() raises NoSuchKernel for an unknown kernel type: found",
    KeyErrorForUnknown: "launch() raises NoSuchKernel for an unknown kernel type: it raised KeyErr",
    AnyFolder: "launch() raises LaunchError for a cwd that is not there",
    AnyParameters: "launch() raises InvalidLaunchParameter for launch_params={'env': 'text'}",
    CleanupOfNothing: "cleanup() ends the process",
}


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("mutant", "requirement"), MUTANTS.items(), ids=[mutant.__name__ for mutant in MUTANTS]
)
async def test_a_violated_requirement_is_named(mutant, requirement, prepare) -> None:
    async with mutant(prepare) as provider:
        with pytest.raises(AssertionError) as caught:
            await check_kernel_provider(provider, patience=PATIENCE_SECONDS)
    assert requirement in str(caught.value)
    assert str(caught.value).startswith("requirement violated: ")


class ByMessage(Launching):
    """Its kernels are interrupted by a message, and bind no socket for ipc."""

    def altered(self, info, manager):
        async def refuse() -> None:
            raise UnsupportedRequest("send interrupt_request")

        manager.interrupt = refuse
        return info, manager


@pytest.mark.parametrize("kind", [FakeProvider, ByMessage])
async def test_a_good_provider_passes(kind, prepare) -> None:
    async with kind(prepare) as provider:
        await check_kernel_provider(provider)


async def test_without_snippets_the_kernel_is_not_looked_into() -> None:
    async with FakeProvider() as provider:
        await check_kernel_provider(provider, "kernel", snippets=Snippets())
        codes = {code for kernel in provider.kernels for code in kernel.history}
    assert codes == {""}


async def test_a_name_that_is_not_found_is_not_launched() -> None:
    async with FakeProvider() as provider:
        with pytest.raises(AssertionError, match="finds the kernel type 'other'"):
            await check_kernel_provider(provider, "other")
        assert provider.kernels == []


async def test_our_provider_of_ipykernel(no_leaks) -> None:
    await check_kernel_provider(IPykernelProvider())


async def test_our_provider_of_kernelspecs(no_leaks, write_kernelspec) -> None:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_kernelspec("checked", argv=argv, display_name="Checked", language="python")
    await check_kernel_provider(KernelSpecProvider(), "checked", snippets=PYTHON)
