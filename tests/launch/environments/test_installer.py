from __future__ import annotations

import sys

import pytest

from kernelproto.launch.environments import installer
from kernelproto.launch.environments.contents import Contents
from kernelproto.launch.environments.installer import install_command, run_installer
from kernelproto.launch.environments.place import Place

PYTHON = "/e/bin/python"


@pytest.fixture
def on_path(monkeypatch) -> set[str]:
    """Give the programs that are on PATH during this test: at first none."""
    programs: set[str] = set()
    monkeypatch.setattr(
        installer.shutil, "which", lambda name: f"/bin/{name}" if name in programs else None
    )
    return programs


def command(maker: str, prefix: str = "/e", *, project: str | None = None, **has: bool) -> str:
    place = Place(prefix=prefix, label="x", maker=maker, project=project)
    contents = Contents(python=PYTHON, **has)
    words = install_command(place, contents, {"CONDA_EXE": "/c/conda"})
    return " ".join(words).replace(sys.executable, "THIS")


def test_venv(on_path) -> None:
    assert command("venv", has_pip=True) == f"{PYTHON} -m pip install ipykernel"
    assert command("venv") == f"THIS -m pip --python {PYTHON} install ipykernel"
    assert command("venv", is_from_uv=True) == f"uv pip install --python {PYTHON} ipykernel"
    on_path.add("uv")
    assert command("venv") == f"uv pip install --python {PYTHON} ipykernel"


def test_managers_of_projects(on_path, tmp_path) -> None:
    project = str(tmp_path)
    assert command("uv", project=project) == f"uv pip install --python {PYTHON} ipykernel"
    tmp_path.joinpath("uv.lock").touch()
    assert command("uv", project=project) == f"uv add --project {project} --dev ipykernel"
    poetry = f"poetry --directory {project} add --group dev ipykernel"
    assert command("poetry", project=project) == poetry
    pixi = f"pixi add --manifest-path {project}"
    assert command("pixi", "/x/default", project=project) == f"{pixi} ipykernel"
    assert command("pixi", "/x/test", project=project) == f"{pixi} --feature test ipykernel"


def test_conda(on_path) -> None:
    assert command("conda") == "/c/conda install --prefix /e ipykernel"
    on_path.add("micromamba")
    assert command("conda") == "micromamba install --prefix /e ipykernel"
    on_path.add("conda")
    assert command("conda") == "conda install --prefix /e ipykernel"


def test_command_is_run() -> None:
    assert run_installer([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    with pytest.raises(FileNotFoundError):
        run_installer(["/nowhere/uv"])
