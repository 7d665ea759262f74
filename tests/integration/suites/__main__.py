"""The tests of other people's programs, run with kernelproto in their place or below them.

    python -m tests.integration.suites install FOLDER
    python -m tests.integration.suites run FOLDER [SUITE ...] [--way WAY]

``suites.toml`` names the programs, their versions and the tests that are known to differ. Without
``--way`` a suite runs in all ways of ``suites.toml``; ``--way plain`` runs it without kernelproto.
The exit status is 1 if another test fails. All suites take half an hour on two processors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.clients.programs import own_folders
from tests.integration.installing import KERNELSPECS, pip_install, say

HERE = Path(__file__).parent
PROJECT = HERE.parents[2]
LONGEST_SUITE = 1800
LONGEST_TEST = 120

# tornado 6.6 deprecates functions that the tests of jupyter_server call, and makes that an error.
WARNINGS = [
    "ignore:The method, uri:DeprecationWarning",
    "ignore:The start_line argument:DeprecationWarning",
]


def suites() -> list[dict[str, Any]]:
    """Return the suites of suites.toml."""
    return list(tomllib.loads((HERE / "suites.toml").read_text("utf-8"))["suite"])


def install(folder: Path) -> None:
    """Install the programs and this project, and unpack the sources, which have the tests."""
    packages = tomllib.loads((HERE / "suites.toml").read_text("utf-8"))["packages"]
    environment, sources = folder / "env", folder / "src"
    python = pip_install(environment, "--editable", f"{PROJECT}[jupyter,papermill]", *packages)
    # The suites run the kernelspec of their own environment.
    subprocess.run([python, "-m", "ipykernel", "install", "--sys-prefix"], check=True)
    sources.mkdir(exist_ok=True)
    for suite in suites():
        name = f"{suite['name']}-{suite['version']}"
        requirement = f"{suite['name']}=={suite['version']}"
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(sources)]
        subprocess.run([python, "-m", "pip", "download", *options, requirement], check=True)
        with tarfile.open(sources / f"{name}.tar.gz") as archive:
            archive.extractall(sources, filter="data")


def run(folder: Path, suite: Mapping[str, Any], way: str) -> bool:
    """Run a suite in one way, print what happened, and return whether it was as expected."""
    name = f"{suite['name']}-{suite['version']}"
    result = folder / f"{suite['name']}-{way}.json"
    result.unlink(missing_ok=True)
    python = (folder / "env" / "bin" / "python").absolute()
    options = ["-q", "-p", "in_suite", "-p", "no:cacheprovider", "-p", "no:kernelproto"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function", f"--timeout={LONGEST_TEST}"]
    options += [part for warning in WARNINGS for part in ("-W", warning)]
    log = result.with_suffix(".log")
    sources = folder / "src" / name
    if suite["name"] == "jupyter_kernel_test":
        shutil.copy(HERE / "kernels.py", sources)  # here, pytest would load tests/conftest.py
    with own_folders() as environment, log.open("w") as output:
        environment |= {
            "PYTHONPATH": str(HERE),
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "JUPYTER_PATH": str(KERNELSPECS.parent),
            "KERNELPROTO_SUITE_WAY": way,
            "KERNELPROTO_SUITE_RESULT": str(result.absolute()),
        }
        subprocess.run(
            [python, "-m", "pytest", *options, *suite["tests"]],
            cwd=sources,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=LONGEST_SUITE,
        )
    if not result.exists():
        say(f"{name}, {way}: pytest did not reach its end; see {log}")
        return False
    return report(f"{name}, {way}", json.loads(result.read_text()), suite.get("differences", {}))


def report(title: str, outcomes: Mapping[str, str], differences: Mapping[str, str]) -> bool:
    """Print the outcomes of a suite, and return whether only known differences have failed."""
    counts = Counter(outcomes.values())
    say(f"{title}: {counts['passed']} of {len(outcomes) - counts['skipped']} passed")
    is_expected = True
    for test, outcome in outcomes.items():
        if outcome == "failed":
            reasons = [why for start, why in differences.items() if test.startswith(start)]
            say(f"    {test}: {reasons[0] if reasons else 'UNEXPECTED'}")
            is_expected &= bool(reasons)
    return is_expected


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.suites")
    parser.add_argument("action", choices=["install", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("suites", nargs="*", help="all by default")
    parser.add_argument("--way", help="one way instead of all")
    options = parser.parse_args()
    if options.action == "install":
        options.folder.mkdir(parents=True, exist_ok=True)
        install(options.folder)
        return
    as_expected = [
        run(options.folder, suite, way)
        for suite in suites()
        if not options.suites or suite["name"] in options.suites
        for way in ([options.way] if options.way else suite["ways"])
    ]
    sys.exit(not all(as_expected) or not as_expected)


if __name__ == "__main__":
    main()
