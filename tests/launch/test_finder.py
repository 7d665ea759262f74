from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from kernelproto.exceptions import KernelExitedEarly, NoSuchKernel
from kernelproto.interfaces import KernelAttributes
from kernelproto.launch import finder as module
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.providers import IPykernelProvider, KernelSpecProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


class SomeProvider:
    """Has kernel types, and tells what it was asked to launch."""

    def __init__(self, id: str = "some", names: tuple[str, ...] = ("a", "b")) -> None:
        self.id = id
        self.names = names
        self.closed = False

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        try:
            for name in self.names:
                yield name, KernelAttributes(language=f"{self.id}'s {name}")
        finally:
            self.closed = True

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ):
        if name not in self.names:
            raise NoSuchKernel(f"{self.id} has no {name}")
        return self.id, name, cwd, launch_params


class FailsAtOnce(SomeProvider):
    def find_kernels(self):
        raise RuntimeError("fails at once")


class FailsHalfWay(SomeProvider):
    async def find_kernels(self):
        yield "a", KernelAttributes()
        raise RuntimeError("fails half-way")


class FindsNonsense(SomeProvider):
    async def find_kernels(self):
        yield "a"


class CannotLaunch(SomeProvider):
    async def launch(self, name, *, cwd=None, launch_params=None):
        raise KernelExitedEarly("cannot launch")


async def names(finder: KernelFinder) -> list[str]:
    return [name async for name, _ in finder.find_kernels()]


async def test_kernels_of_all_providers() -> None:
    finder = KernelFinder([SomeProvider("one"), SomeProvider("two", ()), SomeProvider("three")])
    kernels = [kernel async for kernel in finder.find_kernels()]
    assert kernels == [
        ("one/a", {"language": "one's a"}),
        ("one/b", {"language": "one's b"}),
        ("three/a", {"language": "three's a"}),
        ("three/b", {"language": "three's b"}),
    ]


async def test_no_providers() -> None:
    assert await names(KernelFinder([])) == []


async def test_loop_may_be_left_early() -> None:
    provider = SomeProvider()
    async for name, _ in KernelFinder([provider]).find_kernels():
        assert name == "some/a"
        break
    assert provider.closed


@pytest.mark.parametrize("broken", [FailsAtOnce, FailsHalfWay, FindsNonsense])
async def test_broken_provider_is_logged_and_skipped(broken, caplog) -> None:
    finder = KernelFinder([broken("broken"), SomeProvider()])
    assert await names(finder) == ["some/a", "some/b"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "broken" in record.message
    assert record.exc_info is not None


async def test_second_provider_of_the_same_id_is_skipped(caplog) -> None:
    finder = KernelFinder([SomeProvider(names=("a",)), SomeProvider(names=("b",))])
    assert await names(finder) == ["some/a"]
    assert "'some'" in caplog.text


async def test_launch_by_full_name() -> None:
    finder = KernelFinder([SomeProvider("one"), SomeProvider("two")])
    launched = await finder.launch("two/a", cwd="/", launch_params={"x": 1})
    assert launched == ("two", "a", "/", {"x": 1})


async def test_only_the_first_slash_counts() -> None:
    finder = KernelFinder([SomeProvider(names=("a/b",))])
    assert (await finder.launch("some/a/b"))[:2] == ("some", "a/b")


async def test_plain_name_means_spec_first() -> None:
    finder = KernelFinder([SomeProvider("one"), SomeProvider("spec", ("b",))])
    assert (await finder.launch("b"))[:2] == ("spec", "b")
    assert (await finder.launch("a"))[:2] == ("one", "a")


async def test_plain_name_with_real_providers(write_kernelspec) -> None:
    write_kernelspec("kernel", argv=[sys.executable, "-c", ""])
    finder = KernelFinder([IPykernelProvider(), KernelSpecProvider()])
    info, manager = await finder.launch("kernel")
    assert info.kernel_name == "spec/kernel"
    await manager.cleanup()
    info, manager = await finder.launch("pyimport/kernel")
    assert info.kernel_name == "pyimport/kernel"
    await manager.cleanup()


@pytest.mark.parametrize("name", ["c", "some/c", "spme/a", "", "/", "some/"])
async def test_no_such_kernel(name) -> None:
    finder = KernelFinder([SomeProvider(), SomeProvider("other", ("c0",)), FailsAtOnce("broken")])
    with pytest.raises(NoSuchKernel, match="pip install ipykernel") as caught:
        await finder.launch(name)
    assert caught.value.name == name
    assert set(caught.value.available) == {"some/a", "some/b", "other/c0"}


async def test_nearest_kernel_types_are_named_first() -> None:
    finder = KernelFinder([SomeProvider("spec", ("ir", "python3")), SomeProvider("pyimport")])
    with pytest.raises(NoSuchKernel, match="there are spec/python3, ") as caught:
        await finder.launch("spec/pyhton3")
    assert caught.value.available[0] == "spec/python3"
    assert isinstance(caught.value.__cause__, NoSuchKernel)


async def test_failed_launch_is_not_tried_elsewhere() -> None:
    finder = KernelFinder([CannotLaunch("spec"), SomeProvider()])
    with pytest.raises(KernelExitedEarly):
        await finder.launch("a")


def install(monkeypatch, **values: str) -> None:
    """Pretend that packages with these entry points are installed."""
    declared = EntryPoints(
        EntryPoint(name, value, "kernelproto.kernel_providers") for name, value in values.items()
    )
    monkeypatch.setattr(module, "entry_points", lambda group: declared.select(group=group))


async def test_providers_from_entry_points(monkeypatch, write_kernelspec) -> None:
    write_kernelspec("some", argv=["some"])
    install(
        monkeypatch,
        spec="kernelproto.launch.providers:KernelSpecProvider",
        pyimport="kernelproto.launch.providers:IPykernelProvider",
    )
    assert {"spec/some", "pyimport/kernel"} <= set(await names(KernelFinder.from_entrypoints()))


@pytest.mark.parametrize(
    "value",
    ["no_such_module:Provider", "kernelproto:NoSuchProvider", "string:capwords", "builtins:list"],
)
async def test_entry_point_that_fails_is_logged_and_skipped(monkeypatch, caplog, value) -> None:
    install(monkeypatch, broken=value, pyimport="kernelproto.launch.providers:IPykernelProvider")
    assert await names(KernelFinder.from_entrypoints()) == ["pyimport/kernel"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert value in record.message
    assert record.exc_info is not None


async def test_no_entry_points(monkeypatch) -> None:
    install(monkeypatch)
    assert await names(KernelFinder.from_entrypoints()) == []
