"""Environments in a folder of the test: real ones of venv, and the files of others."""

from __future__ import annotations

import os
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

# Variables of the developer's own environments.
_PREFIXES = ("CONDA", "_CONDA", "MAMBA", "VIRTUAL_ENV", "UV_", "POETRY_", "PIXI_", "XDG_")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this user an empty home, and no environments."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project, and make its folder the working directory."""
    folder = tmp_path / "work" / "project"
    folder.mkdir(parents=True)
    folder.joinpath("pyproject.toml").write_text('[project]\nname = "My project"\n')
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def make_venv() -> Callable[..., Path]:
    """Give a function that makes a virtual environment, which imports the packages of this one."""

    def make(prefix: Path, *, with_packages: bool = True) -> Path:
        venv.EnvBuilder(symlinks=True).create(prefix)
        if with_packages:
            packages = sysconfig.get_path("purelib")
            site = next(prefix.glob("lib/python3.*/site-packages"))
            site.joinpath("these.pth").write_text(f"# of the tests\n{packages}\n")
        return prefix

    return make


@pytest.fixture
def write_env() -> Callable[..., Path]:
    """Give a function that writes the files that say that a folder is an environment."""

    def write(prefix: Path, *, conda: bool = False, python: bool = True, cfg: str = "") -> Path:
        site = prefix / "lib" / "python3.12" / "site-packages"
        site.mkdir(parents=True)
        prefix.joinpath("bin").mkdir()
        if python:
            prefix.joinpath("bin", "python").symlink_to("/bin/true")
        if conda:
            prefix.joinpath("conda-meta").mkdir()
        else:
            prefix.joinpath("pyvenv.cfg").write_text(f"home = /usr/bin\nversion = 3.12.1\n{cfg}")
        return prefix

    return write
