"""Metrics: what a Prometheus is told about the server.

No label has the name of a user, a kernel or anything else that clients make up, so that neither the
number of time series nor what they tell grows with the users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kernelproto.interfaces import DeathCause
from kernelproto.pool import KernelPool
from kernelproto.pool.member import PooledState
from kernelproto.server.connections import Connections, UserSockets
from kernelproto.server.feed import Feeds
from kernelproto.server.tracing import trace_past
from kernelproto.server.traffic import Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ENDS = ("evicted", "culled", "expired", "released", "lost", "failed")

# Requests that are told apart; a client can make up any other.
_REQUESTS = frozenset(
    (
        "execute_request",
        "complete_request",
        "inspect_request",
        "is_complete_request",
        "history_request",
        "kernel_info_request",
        "comm_info_request",
        "debug_request",
        "interrupt_request",
        "shutdown_request",
    )
)

_START_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROUND_TRIP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120)


class Metrics(Collector):
    """What there is to tell; all but the histograms is looked up when somebody asks.

    Args:
        pool: has the kernels.
        feeds: have what waits for clients.

    Attributes:
        traffic: counts the messages.
        start_seconds: how long users have waited for kernels.
        rate_limited: how many starts and restarts were refused because they came too often.
        sockets: the WebSockets of each user; None where they are not counted.
        connections: of the server; None where another server than this program's serves.
    """

    def __init__(self, pool: KernelPool, feeds: Feeds) -> None:
        self._pool = pool
        self._feeds = feeds
        self._registry = CollectorRegistry()
        self.rate_limited = 0
        self.sockets: UserSockets | None = None
        self.connections: Connections | None = None
        self.traffic = Traffic(self._note_round_trip)
        self.start_seconds = Histogram(
            "kernelproto_kernel_start_seconds",
            "From a user's wish for a kernel until it was ready.",
            buckets=_START_SECONDS,
            registry=self._registry,
        )
        self._round_trip_seconds = Histogram(
            "kernelproto_round_trip_seconds",
            "From a client's request, taken from its WebSocket, until the reply was sent on it.",
            ["request"],
            buckets=_ROUND_TRIP_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def expose(self) -> bytes:
        """Return all of them as text of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Tell of what is counted elsewhere anyway; part of Collector."""
        kernels = self._pool.kernels()
        states = Counter(kernel.state for kernel in kernels)
        counts = self._pool.counts
        backlog = self._feeds.backlog()
        yield _by_label(
            GaugeMetricFamily("kernelproto_kernels", "Kernels there are.", labels=["state"]),
            {state: states[state] for state in get_args(PooledState)},
        )
        yield GaugeMetricFamily(
            "kernelproto_connections",
            "WebSockets of clients.",
            sum(kernel.connections for kernel in kernels),
        )
        yield CounterMetricFamily(
            "kernelproto_kernel_starts", "Kernels that were begun to be started.", counts["started"]
        )
        yield CounterMetricFamily(
            "kernelproto_kernel_restarts",
            "Kernels that were restarted, by hand or after they had died.",
            counts["restarted"],
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_kernel_ends", "Kernels that have ended, and why.", labels=["reason"]
            ),
            {reason: counts[reason] for reason in _ENDS},
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_kernel_deaths",
                "Kernels that have died, whether they were restarted or not, by cause.",
                labels=["cause"],
            ),
            {cause: self._pool.deaths[cause] for cause in get_args(DeathCause)},
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_starts_refused",
                "Starts that were refused: by the pool, which is full or has quotas, or because "
                "their user wants too many in a short time.",
                labels=["by"],
            ),
            {"pool": counts["refused"], "rate_limit": self.rate_limited},
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_messages", "Messages on WebSockets.", labels=["direction"]
            ),
            {"from_clients": self.traffic.received, "to_clients": self.traffic.sent},
        )
        if self.connections is not None:
            yield GaugeMetricFamily(
                "kernelproto_open_connections",
                "Connections of clients, WebSockets among them.",
                self.connections.open,
            )
            yield CounterMetricFamily(
                "kernelproto_connections_displaced",
                "Connections without a request that were closed to make room for new ones.",
                self.connections.displaced,
            )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_connections_refused",
                "Connections that were refused because all were in use, and WebSockets that were "
                "refused because their user had too many.",
                labels=["limit"],
            ),
            {
                "max_connections": self.connections.refused if self.connections else 0,
                "max_websockets_per_user": self.sockets.refused if self.sockets else 0,
            },
        )
        yield GaugeMetricFamily(
            "kernelproto_kept_bytes",
            "What is kept of kernels' messages, for clients that are slow or away.",
            backlog.kept_bytes,
        )
        yield GaugeMetricFamily(
            "kernelproto_unsent_messages",
            "Messages that wait to be sent to clients.",
            backlog.unsent,
        )
        yield GaugeMetricFamily(
            "kernelproto_unsent_messages_slowest",
            "Those of them that wait for the slowest client.",
            backlog.slowest,
        )

    def _note_round_trip(self, msg_type: str, seconds: float) -> None:
        request = msg_type.removesuffix("_request") if msg_type in _REQUESTS else "other"
        self._round_trip_seconds.labels(request).observe(seconds)
        trace_past(f"request {request}", seconds)


def _by_label(
    family: GaugeMetricFamily | CounterMetricFamily, values: dict[str, int]
) -> GaugeMetricFamily | CounterMetricFamily:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
