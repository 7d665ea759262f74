"""The suites that take less than a minute; `python -m tests.integration.suites` runs all."""

from __future__ import annotations

import faulthandler

import pytest

from tests.integration.installing import installed_client, installed_kernelspec
from tests.integration.suites.suites import SUITES, Suite, run_suite


@pytest.mark.parametrize(
    ("suite", "way"),
    [pytest.param(suite, way, id=f"{suite.name}-{way}") for suite in SUITES for way in suite.quick],
)
def test_suite_passes(suite: Suite, way: str) -> None:
    # Each test in the suite has a limit, and so has the suite; on a busy machine it may exceed that
    # of a single test here.
    faulthandler.cancel_dump_traceback_later()
    installed_client(suite.name)
    if suite.name == "jupyter_kernel_test":
        installed_kernelspec("ipykernel")

    result = run_suite(suite, way, "-k", suite.quick_part, seconds=600)

    assert not result.unexpected(suite), result.log
