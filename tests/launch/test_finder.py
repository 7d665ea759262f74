from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from kernelproto import run_kernel
from kernelproto.exceptions import (
    DiscoveryError,
    KernelExitedEarly,
    KernelInUse,
    LaunchError,
    NoSuchKernel,
)
from kernelproto.interfaces import KernelAttributes, KernelHandle
from kernelproto.launch import finder as module
from kernelproto.launch.finder import KernelFinder, declared_providers
from kernelproto.launch.providers import IPykernelProvider, KernelSpecProvider
from kernelproto.testing import FakeKernel, FakeManager
from kernelproto.wire import ConnectionInfo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


INFO = ConnectionInfo(shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5)


class SomeManager(FakeManager):
    """Holds the request to its provider."""

    def __init__(self, *request: object) -> None:
        super().__init__(FakeKernel())
        self.request = request


class SomeProvider:
    """Has kernel types."""

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
        return INFO, SomeManager(self.id, name, cwd, launch_params)


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


class TellsNothing(SomeProvider):
    async def find_kernels(self):
        yield "a", None


class CannotLaunch(SomeProvider):
    async def launch(self, name, *, cwd=None, launch_params=None):
        raise KernelExitedEarly("cannot launch")


class FailsToLaunch(SomeProvider):
    async def launch(self, name, *, cwd=None, launch_params=None):
        raise ZeroDivisionError("fails to launch")


class LaunchesNothing(SomeProvider):
    async def launch(self, name, *, cwd=None, launch_params=None):
        return None


class LaunchesNonsense(SomeProvider):
    async def launch(self, name, *, cwd=None, launch_params=None):
        return INFO, "manager"


async def names(finder: KernelFinder) -> list[str]:
    return [name async for name, _ in finder.find_kernels()]


async def asked(finder: KernelFinder, name: str) -> tuple[object, ...]:
    """Launch a kernel type; return the provider that was called, and the arguments."""
    _, manager = await finder.launch(name, cwd="/", launch_params={"x": 1})
    assert isinstance(manager, SomeManager)
    return manager.request


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


@pytest.mark.parametrize("broken", [FailsAtOnce, FailsHalfWay, FindsNonsense, TellsNothing])
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
    assert await asked(finder, "two/a") == ("two", "a", "/", {"x": 1})


async def test_only_the_first_slash_counts() -> None:
    finder = KernelFinder([SomeProvider(names=("a/b",))])
    assert (await asked(finder, "some/a/b"))[:2] == ("some", "a/b")


async def test_plain_name_means_spec_first() -> None:
    finder = KernelFinder([SomeProvider("one"), SomeProvider("spec", ("b",))])
    assert (await asked(finder, "b"))[:2] == ("spec", "b")
    assert (await asked(finder, "a"))[:2] == ("one", "a")


async def test_plain_name_with_real_providers(write_kernelspec) -> None:
    write_kernelspec("kernel", argv=[sys.executable, "-c", "", "{connection_file}"])
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
    with pytest.raises(NoSuchKernel, match="choose one of these, or install the") as caught:
        await finder.launch(name)
    assert "ipykernel" not in str(caught.value)
    assert caught.value.name == name
    assert set(caught.value.available) == {"some/a", "some/b", "other/c0"}


async def test_no_such_kernel_and_no_ipykernel(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoSuchKernel, match="pip install ipykernel"):
        await KernelFinder([SomeProvider(), IPykernelProvider()]).launch("python3")


@pytest.mark.parametrize("name", ["python", "python3", "Python3"])
async def test_python_is_the_own_ipykernel_where_no_provider_has_it(name) -> None:
    own = SomeProvider("pyimport", ("kernel",))
    installed = SomeProvider("spec", (name,))
    other = SomeProvider("other", (name,))
    assert (await asked(KernelFinder([own]), name))[:2] == ("pyimport", "kernel")
    assert (await asked(KernelFinder([own, other]), name))[:2] == ("other", name)
    assert (await asked(KernelFinder([own, other, installed]), name))[:2] == ("spec", name)
    forked = SomeProvider("fork", (name,))
    finder = KernelFinder([own, other, installed, forked])
    assert (await asked(finder, name))[:2] == ("fork", name)
    assert (await asked(finder, f"spec/{name}"))[:2] == ("spec", name)
    broken = FailsToLaunch("spec", (name,))
    assert (await asked(KernelFinder([broken, own]), name))[:2] == ("pyimport", "kernel")


@pytest.mark.parametrize("name", ["spec/python3", "python2", "python3.11", "pyimport/python"])
async def test_other_names_are_not_the_own_ipykernel(name) -> None:
    with pytest.raises(NoSuchKernel):
        await KernelFinder([SomeProvider("pyimport", ("kernel",))]).launch(name)


async def test_python_without_an_installed_kernelspec(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [str(tmp_path)])
    monkeypatch.setattr("jupyter_core.paths.SYSTEM_JUPYTER_PATH", [str(tmp_path)])
    async with run_kernel("python3") as kernel:
        result = await kernel.execute("import sys; print(sys.executable)")
    assert result.stdout.strip() == sys.executable
    assert kernel.connection_info.kernel_name == "pyimport/kernel"


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


BROKEN = [
    (FailsToLaunch, "raised ZeroDivisionError: fails to launch"),
    (LaunchesNothing, "returned no ConnectionInfo and KernelManager: None"),
    (LaunchesNonsense, "returned no ConnectionInfo and KernelManager: .*manager"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN)
async def test_launch_of_a_broken_provider(broken, message) -> None:
    finder = KernelFinder([broken("broken"), SomeProvider()])
    with pytest.raises(LaunchError, match=f"'broken' is broken: launching 'a', it {message}") as e:
        await finder.launch("broken/a")
    assert isinstance(e.value.__cause__, ZeroDivisionError | None)


@pytest.mark.parametrize(("broken", "message"), BROKEN)
async def test_broken_provider_is_skipped_for_a_plain_name(broken, message, caplog) -> None:
    finder = KernelFinder([broken("spec"), SomeProvider()])
    assert (await asked(finder, "a"))[:2] == ("some", "a")
    assert "'spec' is broken" in caplog.text
    with pytest.raises(LaunchError, match=message):
        await finder.launch("nowhere-else")


@pytest.mark.parametrize("id", ["", "..", "a/b", "a b", None])
async def test_provider_whose_id_is_not_simple_is_skipped(id, caplog) -> None:
    assert await names(KernelFinder([SomeProvider(id), SomeProvider()])) == ["some/a", "some/b"]
    assert repr(id) in caplog.text


class TakesConfig(SomeProvider):
    config: object = "none yet"

    def load_config(self, config: Mapping[str, object] | None) -> None:
        self.config = config


class RefusesConfig(SomeProvider):
    def load_config(self, config: Mapping[str, object] | None) -> None:
        raise RuntimeError("refuses")


async def test_every_provider_gets_its_part_of_the_configuration() -> None:
    one, two = TakesConfig("one"), TakesConfig("two")
    finder = KernelFinder([one, two, SomeProvider()])
    finder.load_config({"one": {"x": 1}, "some": {"is": "not asked"}})
    assert one.config == {"x": 1}
    assert two.config is None


async def test_provider_that_cannot_be_configured_is_left_out(caplog) -> None:
    finder = KernelFinder([RefusesConfig("broken"), SomeProvider()])
    finder.load_config({})
    assert await names(finder) == ["some/a", "some/b"]
    (record,) = caplog.records
    assert "'broken'" in record.message
    assert record.exc_info is not None
    with pytest.raises(NoSuchKernel):
        await finder.launch("broken/a")


async def test_configuration_of_an_unknown_provider_is_logged(caplog) -> None:
    KernelFinder([SomeProvider()]).load_config({"smoe": {}})
    assert "'smoe'" in caplog.text


async def test_configuration_of_the_wrong_shape() -> None:
    provider = TakesConfig("some")
    with pytest.raises(DiscoveryError, match="'other' must be a mapping, not list"):
        KernelFinder([provider]).load_config({"some": {}, "other": []})
    assert provider.config == "none yet"


async def test_providers_from_entry_points(write_kernelspec) -> None:
    write_kernelspec("some", argv=["some"])
    assert {"spec/some", "pyimport/kernel"} <= set(await names(KernelFinder.from_entrypoints()))


@pytest.mark.parametrize(
    "value",
    ["no_such_module:Provider", "kernelproto:NoSuchProvider", "string:capwords", "builtins:list"],
)
async def test_entry_point_that_fails_is_logged_and_skipped(declare, caplog, value) -> None:
    declare("broken", broken=value)
    assert "pyimport/kernel" in await names(KernelFinder.from_entrypoints())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert value in record.message
    assert record.exc_info is not None


@pytest.fixture(scope="session")
def oblong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the package oblong; give the folder that it is in."""
    folder = tmp_path_factory.mktemp("oblong")
    source = Path(__file__).with_name("oblong")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", folder]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return folder


async def test_provider_of_an_installed_package(oblong, monkeypatch) -> None:
    monkeypatch.syspath_prepend(oblong)
    finder = KernelFinder.from_entrypoints()
    found = {name: about async for name, about in finder.find_kernels()}
    assert found["oblong/red"] == {"display_name": "Oblong (red)", "language": "python"}
    assert "oblong/blue" in found
    with pytest.raises(NoSuchKernel, match="oblong/blue"):
        await finder.launch("oblong/green")
    finder.load_config({"oblong": {"blue": "sky"}})
    async with (
        run_kernel("oblong/red") as red,
        run_kernel("oblong/blue", finder=finder) as blue,
    ):
        assert (await red.execute("shade")).text == "'crimson'"
        assert (await blue.execute("shade")).text == "'sky'"


async def test_plan_is_that_of_the_first_provider_that_has_the_type(write_kernelspec) -> None:
    write_kernelspec("ir", argv=["R", "{connection_file}"])
    finder = KernelFinder([SomeProvider(), IPykernelProvider(), KernelSpecProvider()])
    plan = await finder.plan("IR", cwd="/", launch_params={"transport": "ipc"})
    assert (plan.kernel_type, plan.cwd, plan.transport) == ("spec/ir", "/", "ipc")
    assert (await finder.plan("kernel")).kernel_type == "pyimport/kernel"
    assert (await finder.plan("python")).kernel_type == "pyimport/kernel"


@pytest.mark.parametrize("name", ["a", "some/a", "some/unknown"])
async def test_provider_without_plans(name) -> None:
    finder = KernelFinder([SomeProvider(), KernelSpecProvider()])
    with pytest.raises(LaunchError, match=r"'some' cannot show how it launches .*'plan'"):
        await finder.plan(name)


@pytest.mark.parametrize("name", ["unknown", "spec/unknown", "nobodys/a"])
async def test_plan_of_no_kernel_type(name) -> None:
    finder = KernelFinder([SomeProvider(), KernelSpecProvider()])
    with pytest.raises(NoSuchKernel) as caught:
        await finder.plan(name)
    assert set(caught.value.available) >= {"some/a", "some/b"}


async def test_provider_that_fails_to_plan() -> None:
    class Broken(SomeProvider):
        def plan(self, name, *, cwd=None, launch_params=None):
            raise RuntimeError("oops")

    with pytest.raises(LaunchError, match=r"'some' is broken: .* raised RuntimeError: oops"):
        await KernelFinder([Broken()]).plan("a")


@pytest.fixture(autouse=True)
def forget_the_last_scan(monkeypatch) -> None:
    monkeypatch.setattr(module, "_last_scan", None)


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """Give a list that grows with every scan of the installed packages."""
    scans: list[str] = []
    entry_points = importlib.metadata.entry_points

    def scan(group: str):
        scans.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", scan)
    return scans


@pytest.fixture
def settled(packages) -> Callable[[], None]:
    """Give a function that makes all folders of the search path look as if changed long ago."""
    number = 0

    def settle() -> None:
        nonlocal number
        number += 1
        os.utime(packages, (number, number))

    return settle


@pytest.fixture
def short_search_path(packages, monkeypatch) -> None:
    """Leave nothing on the search path that this test has not made."""
    monkeypatch.setattr(sys, "path", [str(packages), str(packages / "missing")])


def declared_names() -> list[str]:
    return sorted(entry_point.name for entry_point in declared_providers())


def test_our_own_are_declared() -> None:
    assert {"pyimport", "spec"} <= set(declared_names())


@pytest.mark.usefixtures("short_search_path")
def test_installed_and_removed_packages_are_noticed(packages, declare, settled, scans) -> None:
    settled()
    assert declared_names() == declared_names() == []
    assert len(scans) == 1
    declare("first", a="x:X")
    assert declared_names() == ["a"]
    settled()
    assert declared_names() == declared_names() == ["a"]
    assert len(scans) == 3
    shutil.rmtree(packages / "first-1.0.dist-info")
    assert declared_names() == []


@pytest.mark.usefixtures("short_search_path")
def test_scan_is_not_kept_just_after_a_change(packages, declare, scans) -> None:
    declare("first", a="x:X")
    assert declared_names() == ["a"]
    time = os.stat(packages).st_mtime_ns
    declare("second", b="x:X")
    os.utime(packages, ns=(time, time))  # within one tick of the clock
    declared_providers()
    assert len(scans) == 2


@pytest.mark.usefixtures("short_search_path")
def test_the_search_path_may_change(declare, settled, scans, monkeypatch) -> None:
    declare("first", a="x:X")
    settled()
    assert declared_names() == ["a"]
    monkeypatch.setattr(sys, "path", [])
    assert declared_names() == []
    monkeypatch.setattr(sys, "meta_path", [])
    assert declared_names() == []
    assert len(scans) == 3


@pytest.mark.usefixtures("short_search_path")
def test_the_current_folder_may_be_on_it_and_change(
    packages: Path, declare, settled, monkeypatch, tmp_path
) -> None:
    declare("first", a="x:X")
    settled()
    os.utime(tmp_path, (1, 1))
    monkeypatch.setattr(sys, "path", [""])
    monkeypatch.chdir(tmp_path)
    assert declared_names() == []
    monkeypatch.chdir(packages)
    assert declared_names() == ["a"]


class Host(SomeProvider):
    """Adopts kernels, wrongly."""

    def __init__(self, outcome: object) -> None:
        super().__init__("host")
        self.outcome = outcome

    async def adopt(self, handle: KernelHandle) -> object:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


HANDLE = KernelHandle(host="host", kernel_type="host/a", kernel_id="one", place={})


async def test_adopt() -> None:
    launched = INFO, SomeManager()
    assert await KernelFinder([Host(launched)]).adopt(HANDLE) == launched
    with pytest.raises(DiscoveryError, match="cannot adopt with the kernel provider 'host'"):
        await KernelFinder([SomeProvider("host")]).adopt(HANDLE)
    with pytest.raises(DiscoveryError, match="there is no kernel provider 'host'"):
        await KernelFinder([]).adopt(HANDLE)
    in_use = KernelInUse("it is in use", pid=7)
    with pytest.raises(KernelInUse) as caught:
        await KernelFinder([Host(in_use)]).adopt(HANDLE)
    assert caught.value is in_use


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (KeyError("x"), "adopting 'one', it raised"),
        (None, "adopting 'one', it returned"),
    ],
)
async def test_host_is_broken(outcome: object, words: str) -> None:
    with pytest.raises(LaunchError, match=f"'host' is broken: {words}"):
        await KernelFinder([Host(outcome)]).adopt(HANDLE)
