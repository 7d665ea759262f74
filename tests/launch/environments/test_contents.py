from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from kernelproto.launch.environments import contents as module
from kernelproto.launch.environments.contents import read_contents

THIS_VERSION = f"3.{sys.version_info.minor}"


def install(folder: Path, version: str = "7.4.0") -> Path:
    """Write the files of an ipykernel that a search looks at."""
    package = folder / "ipykernel"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").touch()
    folder.joinpath(f"ipykernel-{version}.dist-info").mkdir()
    return package


def site(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3.*/site-packages"))


def test_venv_with_the_packages_of_another_one(tmp_path, make_venv) -> None:
    prefix = make_venv(tmp_path / "env")
    found = read_contents(str(prefix))
    assert found.python == str(prefix / "bin" / "python")
    assert found.version == THIS_VERSION
    assert found.ipykernel is not None
    assert os.path.isfile(os.path.join(found.ipykernel, "kernelapp.py"))
    assert found.ipykernel_version >= (7, 0)
    assert (found.has_pip, found.is_from_uv) == (False, False)


def test_venv_without_packages(tmp_path, make_venv) -> None:
    found = read_contents(str(make_venv(tmp_path / "env", with_packages=False)))
    assert found.python is not None
    assert (found.ipykernel, found.ipykernel_version) == (None, (0, 0))


def test_packages_of_the_environment(tmp_path, write_env) -> None:
    prefix = write_env(tmp_path / "env", cfg="uv = 0.9\n")
    package = install(site(prefix), "6.29.5")
    site(prefix).joinpath("pip").mkdir()
    found = read_contents(str(prefix))
    assert (found.ipykernel, found.ipykernel_version) == (str(package), (6, 29))
    assert (found.version, found.has_pip, found.is_from_uv) == ("3.12", True, True)


def test_packages_of_the_system(tmp_path, write_env) -> None:
    base = tmp_path / "base"
    install(base / "lib" / "python3" / "dist-packages")
    cfg = f"home = {base}/bin\ninclude-system-site-packages = "
    closed = write_env(tmp_path / "closed", cfg=f"{cfg}false")
    opened = write_env(tmp_path / "opened", cfg=f"{cfg}true")
    assert read_contents(str(closed)).ipykernel is None
    assert read_contents(str(opened)).ipykernel is not None


def test_packages_of_the_user(tmp_path, home, write_env, monkeypatch) -> None:
    install(home / ".local" / "lib" / "python3.12" / "site-packages")
    prefix = write_env(tmp_path / "env", conda=True)
    found = read_contents(str(prefix))
    assert found.ipykernel is not None
    assert found.version == "3.12"
    assert read_contents(str(write_env(tmp_path / "venv"))).ipykernel is None
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert read_contents(str(prefix)).ipykernel is None


def test_programs_in_pth_files_are_not_run(tmp_path, write_env) -> None:
    prefix = write_env(tmp_path / "env")
    install(tmp_path / "more")
    lines = f"import sys; sys.exit(1)\n\n{tmp_path}/gone\n\0\n../../../../more\n"
    site(prefix).joinpath("x.pth").write_text(lines)
    site(prefix).joinpath("y.pth").mkdir()
    assert read_contents(str(prefix)).ipykernel is not None


@pytest.mark.parametrize("target", ["/nowhere/python", "/etc/passwd", "."])
def test_interpreter_that_cannot_be_run(tmp_path, write_env, target) -> None:
    prefix = write_env(tmp_path / "env", python=False)
    prefix.joinpath("bin", "python").symlink_to(target)
    assert read_contents(str(prefix)).python is None


@pytest.mark.parametrize("text", ["", "\0", "version", "version = x\nhome", "=\n= ="])
def test_settings_that_cannot_be_read(tmp_path, write_env, text) -> None:
    prefix = write_env(tmp_path / "env")
    prefix.joinpath("pyvenv.cfg").write_text(text)
    assert read_contents(str(prefix)).version == "3.12"


def test_folder_that_is_gone(tmp_path) -> None:
    assert read_contents(str(tmp_path / "gone")).python is None


def test_kept_until_something_changes(tmp_path, write_env, monkeypatch) -> None:
    prefix = write_env(tmp_path / "env")
    long_ago = time.time() - 60
    for folder, _, files in os.walk(prefix):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            os.utime(name, (long_ago, long_ago), follow_symlinks=False)
    reads: list[str] = []
    read = module._read
    monkeypatch.setattr(module, "_read", lambda *args: reads.append(args[0]) or read(*args))
    assert read_contents(str(prefix)).ipykernel is None
    assert read_contents(str(prefix)).ipykernel is None
    assert reads == [str(prefix)]
    package = install(site(prefix))
    assert read_contents(str(prefix)).ipykernel == str(package)
    # Such a recent change may not be the last one.
    assert read_contents(str(prefix)).ipykernel == str(package)
    assert len(reads) == 3
