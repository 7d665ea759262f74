from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from kernelproto.launch.environments.activation import activation_of
from kernelproto.launch.environments.place import Place
from kernelproto.launch.spec.parameters import kernel_environment


def place(prefix: object, maker: str = "venv", **more: object) -> Place:
    return Place(prefix=str(prefix), label="x", maker=maker, **more)


def environment(found: Place, inherited: dict[str, str]) -> dict[str, str]:
    activation = activation_of(found, inherited)
    kept = {name: value for name, value in inherited.items() if name not in activation.unset}
    return kernel_environment(activation.variables, {}, inherited=kept)


def test_venv() -> None:
    inherited = {"PATH": "/usr/bin:/bin", "PYTHONHOME": "/usr", "VIRTUAL_ENV_PROMPT": "y", "A": "$"}
    assert environment(place("/p/.venv"), inherited) == {
        "PATH": "/p/.venv/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": "/p/.venv",
        "A": "$",
    }


def test_active_environment_leaves_path() -> None:
    inherited = {
        "PATH": "/old/bin:/usr/bin:/conda/bin:/usr/$x",
        "VIRTUAL_ENV": "/old",
        "CONDA_PREFIX": "/conda",
    }
    found = environment(place("/p/.venv"), inherited)
    assert found["PATH"] == "/p/.venv/bin:/usr/bin:/usr/$x"
    assert found["VIRTUAL_ENV"] == "/p/.venv"


def test_odd_prefix_and_no_path() -> None:
    found = environment(place("/a $HOME ${B} {c}"), {"HOME": "/h", "B": "b"})
    assert found["VIRTUAL_ENV"] == "/a $HOME ${B} {c}"
    assert found["PATH"] == f"/a $HOME ${{B}} {{c}}/bin:{os.defpath}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_venv_as_its_own_script_does_it(tmp_path, make_venv) -> None:
    old, new = make_venv(tmp_path / "old"), make_venv(tmp_path / "new")
    activate = f". {old}/bin/activate && env -0 > {tmp_path}/before && . {new}/bin/activate"
    inherited = {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONHOME": "/usr"}
    script = f"{activate} && env -0"
    done = subprocess.run(["bash", "-c", script], env=inherited, capture_output=True, check=True)

    def parse(text: str) -> dict[str, str]:
        pairs = dict(pair.split("=", 1) for pair in text.split("\0") if pair)
        for name in ("PS1", "SHLVL", "_", "PWD", "OLDPWD", "VIRTUAL_ENV_PROMPT"):
            pairs.pop(name, None)
        return pairs

    before = parse(tmp_path.joinpath("before").read_text()) | {"PYTHONHOME": "/usr"}
    assert environment(place(new), before) == parse(done.stdout.decode())


def test_conda(tmp_path, write_env) -> None:
    prefix = write_env(tmp_path / "envs" / "science", conda=True)
    vars_d = prefix / "etc" / "conda" / "env_vars.d"
    scripts = prefix / "etc" / "conda" / "activate.d"
    for folder in (vars_d, scripts):
        folder.mkdir(parents=True)
    vars_d.joinpath("a.json").write_text(json.dumps({"A": "$a", "B": "b", "N": 1, "=": "x"}))
    vars_d.joinpath("broken.json").write_text("{")
    scripts.joinpath("gdal.sh").touch()
    scripts.joinpath("gdal.fish").touch()
    state = {"env_vars": {"B": "state", "GONE": "***unset***"}}
    prefix.joinpath("conda-meta", "state").write_text(json.dumps(state))
    inherited = {
        "PATH": "/usr/bin",
        "GONE": "x",
        "VIRTUAL_ENV": "/old",
        "CONDA_PROMPT_MODIFIER": "(base)",
    }
    assert environment(place(prefix, "conda"), inherited) == {
        "PATH": f"{prefix}/bin:/usr/bin",
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": "science",
        "CONDA_SHLVL": "1",
        "A": "$a",
        "B": "state",
    }
    assert activation_of(place(prefix, "conda"), inherited).skipped == ("gdal.sh",)


def test_conda_without_a_name() -> None:
    variables = activation_of(place("/data/x", "conda"), {}).variables
    assert variables["CONDA_DEFAULT_ENV"] == "/data/x"


def test_pixi() -> None:
    found = place("/p/.pixi/envs/test", "pixi", project="/p")
    variables = activation_of(found, {}).variables
    assert variables["CONDA_PREFIX"] == "/p/.pixi/envs/test"
    assert variables["CONDA_DEFAULT_ENV"] == "test"
    assert variables["PIXI_PROJECT_ROOT"] == "/p"
    assert variables["PIXI_ENVIRONMENT_NAME"] == "test"
