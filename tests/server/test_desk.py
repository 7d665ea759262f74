"""What a client may say about the kernel that it wants."""

from __future__ import annotations

import pytest

from kernelproto.server.desk import allowed_env, working_directory


def test_variables_that_clients_may_set() -> None:
    env = {"KERNEL_X": "1", "kernel_y": "2", "PATH": "3", "LANG": "4", "XKERNEL_": "5"}
    assert allowed_env(env, ["LANG"]) == {"KERNEL_X": "1", "LANG": "4"}


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("", "."),
        ("a.ipynb", "."),
        ("sub", "sub"),
        ("sub/a.ipynb", "sub"),
        ("/sub/a.ipynb", "sub"),
        ("sub/none/none/a.ipynb", "sub"),
        ("sub/../sub", "sub"),
        ("..", "."),
        ("../beside", "."),
        ("../../../etc", "."),
        ("/etc", "."),
        ("link", "."),
        ("link/../sub", "."),
        ("sub\0/..", "."),
        ("~", "."),
        ("x" * 10_000, "."),
    ],
)
def test_paths_stay_where_they_belong(tmp_path, path: str, folder: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    (root / "link").symlink_to(tmp_path / "beside")
    assert working_directory(str(root), path) == str((root / folder).resolve())
