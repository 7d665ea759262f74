"""@jupyterlab/services, JupyterLab's own client, in Node.js; services.mjs has the scenarios."""

from __future__ import annotations

import pytest

from tests.integration.clients.conftest import Node
from tests.integration.clients.programs import Address

OVER_REST = ["lists", "sessions"]
IN_A_KERNEL = [
    "executes",
    "asks",
    "comms",
    "interrupts",
    "restarts",
    "survives a crash",
    "hears why its work was lost",
    "hears that it is dead",
    "comes back to a flood",
    "was away for a while",
]
LEGACY = ["executes", "asks", "comms", "comes back to a flood", "was away for a while"]


@pytest.mark.parametrize("scenario", [*OVER_REST, *IN_A_KERNEL])
def test_services_on_v1(node: Node, server: Address, scenario: str) -> None:
    node("services.mjs", *server, "v1", scenario)


@pytest.mark.parametrize("scenario", LEGACY)
def test_services_on_the_legacy_framing(node: Node, server: Address, scenario: str) -> None:
    node("services.mjs", *server, "legacy", scenario)
