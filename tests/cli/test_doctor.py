from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from kernelproto.cli.main import main
from kernelproto.extras import EXTRAS
from kernelproto.launch.process.confinement import sandbox_fault

pytestmark = pytest.mark.usefixtures("no_leaks")

NO_FOLDER = "/no/such/folder does not exist; it is ignored"


def write_kernelspec(name: str, **entries: object) -> None:
    folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", name)
    folder.mkdir(parents=True)
    folder.joinpath("kernel.json").write_text(json.dumps(entries))


def findings(out: str) -> dict[str, tuple[str, str]]:
    """Return the findings by subject: the mark and the text."""
    lines = [line.split(maxsplit=2) for line in out.splitlines() if line.startswith("  ")]
    return {subject: (mark, text) for mark, subject, text in lines}


def test_findings_of_all_kinds(runtime_dir: Path, kernelproto) -> None:
    write_kernelspec("bad", argv=3)
    write_kernelspec(
        "gone", argv=["/no/such/kernel", "{connection_file}"], display_name="Gone", language="x"
    )
    runtime_dir.chmod(0o777)
    dead = runtime_dir / "kernel-dead.json"
    dead.write_text("{}")

    done = kernelproto("doctor", JUPYTER_PATH="/no/such/folder")

    found = findings(done.stdout)
    assert found["pyimport/kernel"][0] == "ok"
    assert ", ready after " in found["pyimport/kernel"][1]
    assert found["spec/gone"][0] == "!!"
    assert "/no/such/kernel" in found["spec/gone"][1]
    assert found["skipped"][0] == "!!"
    assert "'bad'" in found["skipped"][1]
    assert found["JUPYTER_PATH"] == ("--", NO_FOLDER)
    assert found["runtime"][0] == "!!"
    assert f"chmod go-w {runtime_dir}" in found["runtime"][1]
    assert found["dead"] == (
        "--",
        "kernels       1 left files behind; remove: kernelproto stop dead ...",
    )
    if sandbox_fault() is None:
        assert found["sandboxes"][0] == "ok"
        assert found["disk"][0] == "--"
        assert found["disk"][1].startswith("quota         kernelproto sets none for folders on the")
    assert done.stdout.endswith("\n3 problems found.\n")
    assert "\x1b" not in done.stdout
    assert (done.stderr, done.returncode) == ("", 1)
    dead.unlink()


def test_nothing_is_started(monkeypatch, capsys) -> None:
    monkeypatch.setenv("JUPYTER_PATH", "")

    assert main(["doctor", "--no-start"]) == 0

    out = capsys.readouterr().out
    assert findings(out)["pyimport/kernel"][0] == "--"
    assert out.endswith("\nNo problems found.\n")


def test_installed_extras_are_found_by_their_distributions(monkeypatch, capsys) -> None:
    """PyJWT, which the extra ``oidc`` installs, is imported as jwt."""
    monkeypatch.setenv("JUPYTER_PATH", "")

    main(["doctor", "--no-start"])

    found = findings(capsys.readouterr().out)
    for extra, names in EXTRAS.items():
        installed = all(find_spec(name) is not None for name in names)
        assert found[f"[{extra}]"][0] == ("ok" if installed else "--")


def test_hooks_of_ipykernel(monkeypatch, capsys) -> None:
    monkeypatch.setenv("KERNELPROTO_STOCK_IPYKERNEL", "history,wake")

    assert main(["doctor", "--no-start"]) == 0

    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "fast ipykernel" in line]
    assert "ok  fast ipykernel" in line
    names = line.rpartition(": ")[2].split(", ")
    assert "flush" in names
    assert "history" not in names
    reason = "switched off by KERNELPROTO_STOCK_IPYKERNEL"
    assert [line.split(maxsplit=1)[1] for line in lines if "hook " in line] == [
        f"hook wake          off: {reason}",
        f"hook history       off: {reason}",
    ]


def test_hooks_that_do_not_exist(monkeypatch, capsys) -> None:
    monkeypatch.setenv("KERNELPROTO_STOCK_IPYKERNEL", "speed")

    assert main(["doctor", "--no-start"]) == 1

    (line,) = [line for line in capsys.readouterr().out.splitlines() if "fast ipykernel" in line]
    assert "KERNELPROTO_STOCK_IPYKERNEL names speed, which is no hook" in line
