"""The tests of other people's programs, run with kernelproto in their place or below them.

    python -m tests.integration.suites [SUITE ...] [--way WAY] [-- PYTEST OPTIONS]

A suite that is not installed is installed first. Without ``--way`` a suite runs in all ways of
suites.toml; ``--way plain`` runs it without kernelproto. The exit status is 1 if a test fails that
suites.toml does not name. All suites take half an hour on two processors.
"""

from __future__ import annotations

import argparse
import sys

from tests.integration.clients.install import install
from tests.integration.installing import CLIENTS_FOLDER, SIGN, refuse_unknown, say
from tests.integration.suites.suites import SUITES, Result, Suite, run_suite


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.suites")
    parser.add_argument("suites", nargs="*", help="all by default")
    parser.add_argument("--way", help="one way instead of all")
    options, pytest_options = parser.parse_known_args()
    refuse_unknown(options.suites, [suite.name for suite in SUITES])
    as_expected = []
    for suite in SUITES:
        if not options.suites or suite.name in options.suites:
            install(suite.name)
            if not (CLIENTS_FOLDER / suite.name / SIGN).exists():
                as_expected.append(False)
                continue
            for way in [options.way] if options.way else suite.ways:
                result = run_suite(suite, way, *pytest_options)
                as_expected.append(report(suite, way, result))
    sys.exit(not all(as_expected))


def report(suite: Suite, way: str, result: Result) -> bool:
    """Print the result of a suite, and return whether only known differences have failed."""
    say(f"{suite.name} {suite.version}, {way}: {result}")
    for test in result.failed():
        reasons = [why for start, why in suite.differences.items() if test.startswith(start)]
        say(f"    {test}: {reasons[0] if reasons else 'UNEXPECTED'}")
    unexpected = result.unexpected(suite)
    if unexpected:
        say(result.log)
    return not unexpected


if __name__ == "__main__":
    main()
