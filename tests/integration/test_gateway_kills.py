"""A short run of ``gateway_kills``: servers that share a PostgreSQL are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.gateway_kills import kill_gateways
from tests.registry.postgres import NoPostgres


def test_servers_of_one_registry_are_killed(tmp_path: Path) -> None:
    try:
        faults = kill_gateways(1, 2, "1", tmp_path, store_seconds=0)
    except NoPostgres as error:
        pytest.skip(str(error))
    assert not faults
