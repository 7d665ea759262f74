"""The JSON of requests and responses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from kernelproto.pool import KernelEnd, PooledKernel
from kernelproto.server.models import KernelRequest, SessionRequest, kernel_model, shown_name

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KERNEL = PooledKernel(
    kernel_id="id",
    user="ada",
    name="id",
    kernel_type="spec/ir",
    state="idle",
    connections=2,
    started_at=STARTED,
    last_activity=STARTED,
)
REQUIRED = {
    "id": "id",
    "name": "ir",
    "last_activity": "2026-01-02T03:04:05.000000Z",
    "execution_state": "idle",
    "connections": 2,
}


@pytest.mark.parametrize(
    ("facts", "with_owner", "keys"),
    [
        ({}, False, {}),
        ({}, True, {"owner": "ada"}),
        (
            {"process_started_at": STARTED, "previous_end": "it died"},
            False,
            {"process_started": "2026-01-02T03:04:05.000000Z", "previous_end": "it died"},
        ),
        (
            {"end": KernelEnd(at=STARTED + timedelta(minutes=1), reason="culled", limit=60)},
            False,
            {"ends_at": "2026-01-02T03:05:05.000000Z", "end_reason": "culled"},
        ),
        (
            {"state": "unreachable", "unreachable": "the network is down"},
            False,
            {"execution_state": "busy", "unreachable": "the network is down"},
        ),
    ],
)
def test_kernel_has_only_known_optional_keys(facts, with_owner: bool, keys) -> None:
    model = kernel_model(msgspec.structs.replace(KERNEL, **facts), with_owner=with_owner)
    assert msgspec.json.decode(msgspec.json.encode(model)) == REQUIRED | keys


@pytest.mark.parametrize(
    ("kernel_type", "shown"),
    [
        ("spec/ir", "ir"),
        ("spec/python3", "python3"),
        ("fork/python3", "python3"),
        ("fork/kernel", "fork/kernel"),
        ("pyimport/kernel", "pyimport/kernel"),
        ("ir", "ir"),
    ],
)
def test_installed_kernelspec_has_the_name_of_jupyter(kernel_type: str, shown: str) -> None:
    assert shown_name(kernel_type) == shown


@pytest.mark.parametrize("kind", [KernelRequest, SessionRequest])
def test_unknown_keys_are_ignored(kind) -> None:
    """Clients send keys of other servers."""
    body = {"path": "x", "type": "notebook", "future": [1]}
    assert msgspec.convert(body, kind).path == "x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"path": "x/" * 201}, "202 parts"),
        ({"env": {"KERNEL_WORKING_DIR": "x/" * 201}}, "202 parts"),
        ({"path": "\N{SNOWMAN}" * 1400}, "4200 bytes"),
        ({"name": "x" * 256}, "length <= 255"),
        ({"id": "x" * 101}, "length <= 100"),
    ],
)
def test_field_that_is_too_large_is_refused(body: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(body, KernelRequest)
