"""A bounded run of the fuzz target, the same on every run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "fuzz_wire", Path(__file__).with_name("fuzz_wire.py")
)
assert _spec is not None
assert _spec.loader is not None
fuzz_wire = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_wire)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mutated_messages_raise_protocol_errors_only_and_no_forgery_is_accepted(seed: int) -> None:
    outcomes = fuzz_wire.run(5_000, seed)

    assert outcomes.total() == 5_000
    # The run is worth something only if all of these were met.
    assert {"accepted", "InvalidSignature", "MalformedMessage"} <= set(outcomes)
