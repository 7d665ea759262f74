from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

import pytest


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Make a project of uv whose environment has no ipykernel, and change to its folder."""
    project = tmp_path / "project"
    venv.EnvBuilder(symlinks=True).create(project / ".venv")
    for name in ("pyproject.toml", "uv.lock"):
        project.joinpath(name).touch()
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def path(tmp_path, project) -> str:
    """Give a PATH with a program uv, which installs the packages of this environment."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    site = next(project.glob(".venv/lib/python3.*/site-packages"))
    packages = sysconfig.get_path("purelib")
    uv.write_text(f'#!/bin/sh\necho "uv has got $*"\necho {packages} > {site}/these.pth\n')
    uv.chmod(0o755)
    return f"{uv.parent}:/usr/bin:/bin"


def test_without_a_terminal_the_error_has_the_command(kernelproto, project, path) -> None:
    done = kernelproto("run", "-k", "env/.venv", "-c", "1", PATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: ipykernel is not installed in {project}/.venv: run `uv add --project {project} "
        "--dev ipykernel`\n"
    )
    assert f"env/.venv cannot be launched: {done.stderr.removeprefix('error: ')}" in (
        kernelproto("list", PATH=path).stderr
    )


def test_installed_on_request(terminal, project, path) -> None:
    screen = terminal("run", "-k", "env/.venv", "-c", "6 * 7", PATH=path)
    screen.until(f"ipykernel is not installed in {project}/.venv.")
    screen.until(f"Run `uv add --project {project} --dev ipykernel` now? [y/N] ")
    screen.type("y\n")
    screen.until(f"uv has got add --project {project} --dev ipykernel")
    screen.until("42")
    assert screen.end() == 0


def test_declined(terminal, project, path) -> None:
    screen = terminal("console", "env/.venv", PATH=path)
    screen.until("now? [y/N] ")
    screen.type("\n")
    screen.until("error: ipykernel is not installed")
    assert screen.end() == 1
    assert not list(project.glob(".venv/lib/python3.*/site-packages/these.pth"))


@pytest.mark.parametrize(
    ("program", "words"),
    [("exit 3", "failed (status 3)"), (None, "cannot run uv: No such file or directory")],
)
def test_installation_that_fails(terminal, project, path, tmp_path, program, words) -> None:
    uv = tmp_path / "bin" / "uv"
    if program is None:
        uv.unlink()
    else:
        uv.write_text(f"#!/bin/sh\n{program}\n")
    screen = terminal("run", "-k", "env/.venv", "-c", "1", PATH=path)
    screen.until("now? [y/N] ")
    screen.type("y\n")
    screen.until(words)
    assert screen.end() == 1
