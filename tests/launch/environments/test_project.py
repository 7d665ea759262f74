from __future__ import annotations

import base64
import hashlib
import os

import pytest

from kernelproto.launch.environments.project import find_in_project, project_folders


def labels(start, **variables: str) -> list[str]:
    return [place.label for place in find_in_project(str(start), variables)]


def test_folders_up_to_the_project(project) -> None:
    inner = project / "src" / "package"
    inner.mkdir(parents=True)
    folders = [str(inner), str(inner.parent), str(project)]
    assert project_folders(str(inner)) == folders
    assert project_folders(str(project)) == [str(project)]


def test_folders_of_a_workspace_end_at_the_repository(project) -> None:
    project.parent.joinpath("uv.lock").touch()
    assert project_folders(str(project)) == [str(project), str(project.parent)]
    project.parent.parent.joinpath("pyproject.toml").touch()
    project.parent.joinpath(".git").mkdir()
    assert project_folders(str(project)) == [str(project), str(project.parent)]


def test_folders_without_a_project(tmp_path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    assert project_folders(str(folder)) == [str(folder)]


def test_home_is_no_project(home) -> None:
    home.joinpath(".git").mkdir()
    home.parent.joinpath(".git").mkdir()
    folder = home / "a" / "b"
    folder.mkdir(parents=True)
    assert project_folders(str(folder)) == [str(folder)]
    assert project_folders(str(home)) == [str(home)]
    assert project_folders("/") == ["/"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="gives a folder away")
def test_folders_of_another_user_are_not_searched(project) -> None:
    project.parent.joinpath("pyproject.toml").touch()
    os.chown(project.parent, 12345, -1)
    assert project_folders(str(project)) == [str(project)]


def test_venvs_of_the_project_with_usual_names_first(project, write_env) -> None:
    for name in ("a", "venv", ".venv", "z"):
        write_env(project / name)
    write_env(project / ".conda", conda=True)
    project.joinpath("src").mkdir()
    inner = project / "inner"
    write_env(inner / ".venv")
    assert labels(inner) == [".venv", ".venv", "venv", ".conda", "a", "z"]


def test_usual_names_alone_in_a_folder_with_many_entries(project, write_env) -> None:
    for name in ("a", ".venv"):
        write_env(project / name)
    for number in range(500):
        project.joinpath(f"{number}").touch()
    assert labels(project) == [".venv"]


@pytest.mark.parametrize(("lock", "maker"), [("uv.lock", "uv"), ("poetry.lock", "poetry")])
def test_manager_of_the_project(project, write_env, lock, maker) -> None:
    write_env(project / ".venv")
    project.joinpath(lock).touch()
    (place,) = find_in_project(str(project), {})
    assert (place.maker, place.project) == (maker, str(project))


def test_environment_that_uv_is_told_to_use(project, tmp_path, write_env) -> None:
    write_env(project / "envs" / "dev")
    write_env(tmp_path / "elsewhere")
    (place,) = find_in_project(str(project), {"UV_PROJECT_ENVIRONMENT": "envs/dev"})
    assert (place.label, place.maker) == ("dev", "uv")
    assert labels(project, UV_PROJECT_ENVIRONMENT=str(tmp_path / "elsewhere")) == ["elsewhere"]
    assert labels(project, UV_PROJECT_ENVIRONMENT="missing") == []


def test_file_with_the_path_of_the_environment(project, tmp_path, write_env) -> None:
    file = project / ".venv"
    for prefix in (write_env(project / "ve"), write_env(tmp_path / "elsewhere")):
        file.write_text(f"{os.path.relpath(prefix, project)}\n")
        assert next(find_in_project(str(project), {})).prefix == str(prefix)
        file.write_text(str(prefix))
        assert labels(project)[0] == ".venv"
    for text in (b"", b"\0", b"\xff", b"gone", b".venv"):
        file.write_bytes(text)
        assert labels(project) == ["ve"]


def test_pixi(project, write_env) -> None:
    for name in ("test", "default"):
        write_env(project / ".pixi" / "envs" / name, conda=True)
    found = list(find_in_project(str(project), {}))
    assert [place.label for place in found] == ["pixi-default", "pixi-test"]
    assert {(place.maker, place.project) for place in found} == {("pixi", str(project))}


def test_pixi_with_detached_environments(project, tmp_path, write_env) -> None:
    write_env(tmp_path / "cache" / "default", conda=True)
    project.joinpath(".pixi").mkdir()
    project.joinpath(".pixi", "envs").symlink_to(tmp_path / "cache")
    assert labels(project) == ["pixi-default"]


def poetry_name(project, name: str) -> str:
    digest = hashlib.sha256(str(project).encode()).digest()
    return f"{name}-{base64.urlsafe_b64encode(digest).decode()[:8]}-py3.12"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[project]\nname = "My project"\n[tool.poetry]\npackages = []', "my_project"),
        ('[project]\nname = "My.__Project-X"\n[tool.poetry]\nx = 1', "my-project-x"),
        ('[tool.poetry]\nname = "old"', "old"),
        ("[tool.poetry]\npackage-mode = false", "non-package-mode"),
    ],
)
def test_poetry(project, home, write_env, text, name) -> None:
    project.joinpath("pyproject.toml").write_text(text)
    root = home / ".cache" / "pypoetry" / "virtualenvs"
    write_env(root / poetry_name(project, name))
    write_env(root / poetry_name(project.parent, name))
    (place,) = find_in_project(str(project), {})
    assert (place.label, place.maker) == ("poetry-py3.12", "poetry")


def test_poetry_is_not_asked_about_other_projects(project, home, write_env) -> None:
    root = home / ".cache" / "pypoetry" / "virtualenvs"
    write_env(root / poetry_name(project, "my_project"))
    assert labels(project) == []
    project.joinpath("poetry.lock").touch()
    assert labels(project) == ["poetry-py3.12"]


def test_poetry_with_another_folder(project, home, tmp_path, write_env) -> None:
    project.joinpath("poetry.lock").touch()
    name = poetry_name(project, "my_project")
    for folder in ("own", "users", "cache/virtualenvs", "variable"):
        write_env(tmp_path / folder / name)

    def prefix(**variables: str) -> str:
        (place,) = find_in_project(str(project), variables)
        return os.path.relpath(os.path.dirname(place.prefix), tmp_path)

    config = home / ".config" / "pypoetry"
    config.mkdir(parents=True)
    config.joinpath("config.toml").write_text(f'cache-dir = "{tmp_path}/cache"')
    assert prefix() == "cache/virtualenvs"
    config.joinpath("config.toml").write_text(f'[virtualenvs]\npath = "{tmp_path}/users"')
    assert prefix() == "users"
    project.joinpath("poetry.toml").write_text('[virtualenvs]\npath = "{project-dir}/../../own"')
    assert prefix() == "own"
    assert prefix(POETRY_VIRTUALENVS_PATH=f"{tmp_path}/variable") == "variable"


@pytest.mark.parametrize("text", ["[", "\x00", "tool = 1", "[tool]\npoetry = 3", "[" * 5000])
def test_files_that_cannot_be_read(project, write_env, text) -> None:
    write_env(project / ".venv")
    project.joinpath("pyproject.toml").write_text(text)
    project.joinpath("poetry.lock").touch()
    project.joinpath("poetry.toml").mkdir()
    assert labels(project) == [".venv"]
