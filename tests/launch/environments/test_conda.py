from __future__ import annotations

import pytest

from kernelproto.launch.environments.conda import find_in_conda, read_envs_dirs


def labels(**variables: str) -> list[str]:
    return [place.label for place in find_in_conda(variables)]


def test_nothing(home) -> None:
    assert labels() == []
    home.joinpath(".conda").mkdir()
    home.joinpath(".conda", "environments.txt").write_text("/nowhere\n\nrelative\n\0\n")
    assert labels(CONDA_EXE="/nowhere/bin/conda", CONDARC="/nowhere") == []


def test_installation_of_conda(tmp_path, write_env) -> None:
    root = write_env(tmp_path / "miniforge", conda=True)
    write_env(root / "envs" / "science", conda=True)
    write_env(root / "envs" / "not-of-conda")
    assert labels(CONDA_EXE=str(root / "bin" / "conda")) == ["base", "science"]
    assert labels(MAMBA_ROOT_PREFIX=str(root)) == ["base", "science"]


def test_list_of_environments(home, tmp_path, write_env) -> None:
    named = [
        write_env(tmp_path / "miniforge", conda=True),
        write_env(tmp_path / "data" / "science", conda=True),
        write_env(tmp_path / "thesis" / ".conda", conda=True),
        write_env(tmp_path / "app" / ".pixi" / "envs" / "default", conda=True),
    ]
    for folder in ("condabin", "envs"):
        named[0].joinpath(folder).mkdir()
    home.joinpath(".conda").mkdir()
    lines = "".join(f"{prefix}\n" for prefix in [*named, tmp_path / "deleted"])
    home.joinpath(".conda", "environments.txt").write_text(lines)
    assert labels() == ["base", "science", "thesis", "app-default"]
    assert [place.maker for place in find_in_conda({})] == ["conda", "conda", "conda", "pixi"]


def test_folders_of_environments(home, tmp_path, write_env) -> None:
    for folder in ("one", "two", "three"):
        write_env(tmp_path / folder / f"in-{folder}", conda=True)
    write_env(home / ".conda" / "envs" / "own", conda=True)
    home.joinpath(".condarc").write_text(f"channels: [a]\nenvs_dirs:\n  - {tmp_path}/one\n")
    condarc = tmp_path / "condarc"
    condarc.write_text(f"envs_dirs: ['{tmp_path}/two']\n")
    paths = f"{tmp_path}/three:/nowhere"
    assert labels(CONDA_ENVS_DIRS=paths, CONDARC=str(condarc)) == [
        "in-three",
        "in-two",
        "in-one",
        "own",
    ]


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("", []),
        ("envs_dirs:", []),
        (
            "envs_dirs:\n  - /a\n  - '/b c'  # comment\n\n  # - /no\n  - \"/d\"\nother:\n  - /no",
            None,
        ),
        ("envs_dirs:\n- /a\n- /b c\n- /d\nchannels:\n- /no\n", None),
        ("channels: [x]\nenvs_dirs: [/a, '/b c', \"/d\"] # comment", None),
        ("envs_dirs: /a", []),
        ("pkgs_dirs:\n  - /no\n", []),
        ("envs_dirs: [\n", []),
    ],
)
def test_configuration(text, folders) -> None:
    assert read_envs_dirs(text) == (["/a", "/b c", "/d"] if folders is None else folders)
