"""The tests of other people's programs, with kernelproto in place of a part of them or below them.

``suites.toml`` has the programs, their versions, and the tests that are known to differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.integration.clients.programs import own_folders
from tests.integration.installing import CLIENTS_FOLDER, KERNELSPECS, run

HERE = Path(__file__).parent
LONGEST_TEST = 120

# tornado 6.6 deprecates functions that the tests of jupyter_server call, and makes that an error.
WARNINGS = [
    "ignore:The method, uri:DeprecationWarning",
    "ignore:The start_line argument:DeprecationWarning",
]


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tests of one program.

    Args:
        name: the package.
        version: its version.
        tests: the files with the tests, relative to the source distribution.
        ways: the functions of in_suite.py that make the program use kernelproto.
        needs: the packages that the tests need, beside those in the group ``test``.
        is_in_wheel: whether the wheel has the tests; otherwise the source distribution has them.
        quick: the ways that the tests of this project run as well, because they take less than a
            minute.
        quick_part: the tests that these run, as an expression of pytest's option ``-k``.
        differences: the beginning of the names of tests that fail with kernelproto only, with the
            reasons.
    """

    name: str
    version: str
    tests: Sequence[str]
    ways: Sequence[str]
    needs: Sequence[str] = ()
    is_in_wheel: bool = False
    quick: Sequence[str] = ()
    quick_part: str = ""
    differences: Mapping[str, str] = {}

    @property
    def recipe(self) -> str:
        """Return a text that changes when the program has to be installed again."""
        return " ".join([f"{self.name}=={self.version}", *self.needs, str(self.is_in_wheel)])

    def install(self, folder: Path) -> None:
        """Install the program and its tests into a folder, for the Python of this project."""
        requirement = f"{self.name}=={self.version}"
        pip = [sys.executable, "-m", "pip"]
        options = ["--quiet", "--disable-pip-version-check", "--no-deps"]
        target = ["--target", str(folder / "packages")]
        run(*pip, "install", *options, *target, "pytest-timeout", requirement, *self.needs)
        if not self.is_in_wheel:
            binaries = ["--no-binary", self.name, "--dest", str(folder)]
            run(*pip, "download", *options, *binaries, requirement)
            with tarfile.open(folder / f"{self.name}-{self.version}.tar.gz") as archive:
                archive.extractall(folder, filter="data")


class Result(NamedTuple):
    """The outcomes of the tests of a suite; none if pytest ran no test or did not reach its end."""

    outcomes: Mapping[str, str]
    log: str

    def __str__(self) -> str:
        if not self.outcomes:
            return "pytest ran no test, or did not reach its end"
        counts = Counter(self.outcomes.values())
        return f"{counts['passed']} of {len(self.outcomes) - counts['skipped']} passed"

    def failed(self) -> Iterator[str]:
        """Return the names of the tests that have failed."""
        return (test for test, outcome in self.outcomes.items() if outcome == "failed")

    def unexpected(self, suite: Suite) -> list[str]:
        """Return the failed tests that are not known to differ; the log if no test has run."""
        if not self.outcomes:
            return [self.log]
        return [test for test in self.failed() if not test.startswith(tuple(suite.differences))]


SUITES = msgspec.toml.decode(
    (HERE / "suites.toml").read_bytes(), type=dict[str, tuple[Suite, ...]]
)["suite"]


def run_suite(suite: Suite, way: str, *options: str, seconds: float = 1800) -> Result:
    """Run an installed suite.

    Args:
        suite: the suite.
        way: the name of a function of in_suite.py; "plain" leaves the program as it is.
        options: of pytest.
        seconds: the longest time.

    Raises:
        TimeoutExpired: the suite takes longer.
    """
    folder = CLIENTS_FOLDER / suite.name
    packages = folder / "packages"
    sources = packages if suite.is_in_wheel else folder / f"{suite.name}-{suite.version}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "in_suite", "-p", "no:kernelproto"]
    command += ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    command += [f"--timeout={LONGEST_TEST}", *options]
    command += [part for warning in WARNINGS for part in ("-W", warning)]
    if "kernels.py" in suite.tests:
        shutil.copy(HERE / "kernels.py", sources)  # here, pytest would load tests/conftest.py
    with own_folders() as environment, tempfile.TemporaryDirectory(prefix="kp-") as scratch:
        result = Path(scratch) / "result.json"
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(HERE), str(packages)]),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "JUPYTER_PATH": str(KERNELSPECS.parent),
            "KERNELPROTO_SUITE_WAY": way,
            "KERNELPROTO_SUITE_RESULT": str(result),
        }
        done = subprocess.run(
            [*command, *suite.tests],
            cwd=sources,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        outcomes = json.loads(result.read_text()) if result.exists() else {}
    return Result(outcomes, done.stdout)
