"""How much does the way through another server add, if several servers share a registry?

Two servers share a PostgreSQL of the lab's own. Each sample starts a kernel on the first one, and
executes short cells through the first or through the second, which forwards them.
"""

from __future__ import annotations

from functools import cache, partial

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab, Sizes
from benchmarks.peers.peer import run_in, trip_milliseconds
from benchmarks.peers.servers import Server, node
from benchmarks.question import Contender, Goal, Question

_OWN, _OTHER = "kernelproto, the kernel's server", "kernelproto, another server"
_TRIPS = Sizes(200, 50, 3)

# Milliseconds that the way through another server may add.
_MOST_ADDED = 1.0


@cache
def _servers(lab: Lab) -> tuple[Server, Server]:
    """Return two servers with one registry.

    Raises:
        Skipped: there is no PostgreSQL.
    """
    try:
        from tests.registry.postgres import NoPostgres, Postgres
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    try:
        postgres = Postgres()
    except NoPostgres as reason:
        raise Skipped(str(reason)) from None
    lab.at_end(postgres.close)
    own, other = (node(name, postgres.url) for name in (_OWN, _OTHER))
    return own, other


def _round_trip(kernel: str, code: str, is_forwarded: bool, lab: Lab) -> float:
    """Return the median of some round trips in milliseconds, after a warm-up."""
    own, other = _servers(lab)

    async def program() -> float:
        async with own.open(lab) as api, other.open(lab) as far:
            through = far if is_forwarded else api
            async with own.connected(api, kernel, through=through) as client:
                return await trip_milliseconds(client, code, lab.size(_TRIPS))

    return run_in("asyncio", program)


def _round_trips(name: str, kernel: str, code: str) -> Question:
    return Question(
        name=f"nodes.round_trip_{name}",
        title=f"Execute round trip through another server than the kernel's, {name}",
        unit="ms",
        contenders=[
            Contender(_OWN, partial(_round_trip, kernel, code, False)),
            Contender(_OTHER, partial(_round_trip, kernel, code, True)),
        ],
        goals=[Goal(subject=_OTHER, floor=_OWN, limit=_MOST_ADDED)],
    )


QUESTIONS = [
    _round_trips("synthetic", "synthetic", "result"),
    _round_trips("ipykernel", "pyimport/kernel", "6 * 7"),
]
