from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelproto import run_kernel
from kernelproto.exceptions import DiscoveryError, IPykernelMissing, LaunchError, NoSuchKernel
from kernelproto.interfaces import KernelAttributes, KernelProvider, TakesConfig
from kernelproto.launch import EnvironmentProvider, IPykernelProvider
from kernelproto.launch.environments import kernels
from kernelproto.launch.environments import provider as module
from kernelproto.launch.finder import KernelFinder, PlansLaunch
from kernelproto.testing import check_kernel_provider

GUARD_SECONDS = 60

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def found(provider: EnvironmentProvider) -> dict[str, KernelAttributes]:
    return dict([kernel async for kernel in provider.find_kernels()])


@pytest.fixture
def env(project: Path, make_venv: Callable[..., Path]) -> Path:
    """Give the environment of the project, which can run kernels."""
    return make_venv(project / ".venv")


def test_it_is_a_provider() -> None:
    provider = EnvironmentProvider()
    assert isinstance(provider, KernelProvider)
    assert isinstance(provider, TakesConfig)
    assert isinstance(provider, PlansLaunch)


async def test_it_keeps_the_contract(env) -> None:
    await check_kernel_provider(EnvironmentProvider(), ".venv")


async def test_attributes(env) -> None:
    about = (await found(EnvironmentProvider()))[".venv"]
    version = f"3.{sys.version_info.minor}"
    assert about["display_name"] == f"Python {version} (venv: project, .venv)"
    assert about["language"] == "python"
    assert about["argv"][0] == str(env / "bin" / "python")
    assert about["metadata"]["environment"]["prefix"] == str(env)
    assert about["metadata"]["supported_encryption"] == ["curve"]
    assert "logo-64x64" in about["resources"]
    assert "unavailable" not in about


async def test_kernel_runs_in_the_activated_environment(env, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    program = (
        "import os, shutil, sys\n"
        "print(sys.prefix, os.environ['VIRTUAL_ENV'], shutil.which('python'), os.getcwd())\n"
        "print('PYTHONHOME' in os.environ)"
    )
    finder = KernelFinder([EnvironmentProvider()])
    async with run_kernel("env/.VENV", finder=finder, cwd=tmp_path) as kernel:
        result = await kernel.execute(program)
    assert result.stdout.split() == [
        str(env),
        str(env),
        str(env / "bin" / "python"),
        str(tmp_path),
        "False",
    ]


async def test_environment_without_ipykernel(project, make_venv, runtime_dir) -> None:
    prefix = make_venv(project / ".venv", with_packages=False)
    provider = EnvironmentProvider()
    reason = (await found(provider))[".venv"]["unavailable"]
    assert reason.startswith(f"ipykernel is not installed in {prefix}: run `")
    with pytest.raises(IPykernelMissing) as caught:
        await provider.launch(".venv")
    assert str(caught.value) == reason
    assert caught.value.prefix == str(prefix)
    assert caught.value.command[-1] == "ipykernel"
    assert list(runtime_dir.iterdir()) == []


async def test_broken_environment(project, write_env) -> None:
    prefix = write_env(project / ".venv", python=False)
    prefix.joinpath("bin", "python").symlink_to("/nowhere/python3.12")
    provider = EnvironmentProvider()
    assert "create the environment again" in (await found(provider))[".venv"]["unavailable"]
    with pytest.raises(LaunchError, match="no interpreter that can be run"):
        await provider.launch(".venv")


async def test_environment_with_an_old_python(project, write_env) -> None:
    prefix = write_env(project / "old")
    prefix.joinpath("pyvenv.cfg").write_text("version = 3.7.17\n")
    with pytest.raises(LaunchError, match=r"has Python 3\.7: create an environment with .* 3\.8"):
        await EnvironmentProvider().launch("old")


async def test_environment_for_another_language(project, write_env) -> None:
    write_env(project / ".conda", conda=True, python=False)
    assert await found(EnvironmentProvider()) == {}


async def test_unknown_environment(env) -> None:
    with pytest.raises(NoSuchKernel, match=r"'venv'; there are \.venv; change to the folder"):
        await EnvironmentProvider().launch("venv")


async def test_scripts_that_are_not_run_are_logged(project, write_env, caplog) -> None:
    prefix = write_env(project / ".conda", conda=True)
    package = next(prefix.glob("lib/*/site-packages")) / "ipykernel"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    scripts = prefix / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    scripts.joinpath("gdal.sh").touch()
    plan = EnvironmentProvider().plan(".conda")
    assert plan.environment({"PATH": "/bin"})["CONDA_PREFIX"] == str(prefix)
    assert "without its activation scripts, which need a shell: gdal.sh" in caplog.text


async def test_configuration(project, tmp_path, write_env, monkeypatch) -> None:
    write_env(project / ".venv")
    write_env(tmp_path / "more" / "one")
    monkeypatch.chdir("/")
    provider = EnvironmentProvider()
    provider.load_config(None)
    assert await found(provider) == {}
    provider.load_config({"project": str(project), "folders": [str(tmp_path / "more")]})
    assert list(await found(provider)) == [".venv", "one"]
    provider.load_config({"sources": []})
    assert await found(provider) == {}
    for wrong in ({"sources": ["x"]}, {"project": 1}, {"folder": "x"}):
        with pytest.raises(ValueError, match="configuration of 'env'"):
            provider.load_config(wrong)


async def test_project_stays_the_same(env, monkeypatch) -> None:
    provider = EnvironmentProvider()
    relative = EnvironmentProvider("..")
    monkeypatch.chdir("/")
    assert list(await found(provider)) == [".venv"]
    assert await found(relative) == {}
    assert provider.plan(".venv").argv[0] == str(env / "bin" / "python")


async def test_working_directory_that_is_gone(project) -> None:
    project.joinpath("pyproject.toml").unlink()
    project.rmdir()
    assert await found(EnvironmentProvider()) == {}


async def test_bare_names_never_mean_an_environment(project, make_venv) -> None:
    make_venv(project / "python3")
    make_venv(project / "mine")
    finder = KernelFinder([EnvironmentProvider(), IPykernelProvider()])
    assert (await finder.plan("python3")).kernel_type == "pyimport/kernel"
    assert (await finder.plan("env/python3")).kernel_type == "env/python3"
    with pytest.raises(NoSuchKernel, match="env/mine"):
        await finder.launch("mine")


async def test_search_that_does_not_end(env, monkeypatch, caplog) -> None:
    end = threading.Event()
    monkeypatch.setattr(kernels, "find_places", lambda *_: end.wait(GUARD_SECONDS) and {})
    monkeypatch.setattr(module, "_SEARCH_SECONDS", 0.01)
    try:
        assert await found(EnvironmentProvider()) == {}
        assert "a network folder may not answer" in caplog.text
        with pytest.raises(DiscoveryError, match=r"has not ended after 0\.01 s"):
            await EnvironmentProvider().launch(".venv")
    finally:
        end.set()


async def test_entry_points_have_it_last() -> None:
    finder = KernelFinder.from_entrypoints()
    assert list(finder._providers)[-1] == "env"
