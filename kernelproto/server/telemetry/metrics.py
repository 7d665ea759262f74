"""Metrics of the server, for Prometheus.

No label holds a user name, a kernel id or any other text that clients choose. So the number of time
series does not grow with the users, and the metrics do not reveal their names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NoReturn, get_args

import anyio
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.fanout.traffic import Traffic
from kernelproto.interfaces import DeathCause
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import launch_names
from kernelproto.pool import KernelPool, PooledKernel
from kernelproto.pool.pooled_kernel import PooledState
from kernelproto.server.auth.logins import Logins
from kernelproto.server.connections import Connections, UserSockets
from kernelproto.server.telemetry.tracing import trace_past
from kernelproto.server.telemetry.usage import UsageMeter, pids_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ENDS = ("evicted", "culled", "expired", "released", "lost", "failed")

_STATES: tuple[str, ...] = get_args(PooledState)

# The label of an unknown kernel type or request.
_OTHER = "other"

# How long the list of kernel types is cached.
_TYPES_SECONDS = 60.0

# How often the lag of the event loop is measured.
_LAG_PERIOD_SECONDS = 0.5

# Requests with a label of their own; a client may send any other msg_type.
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
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROUND_TRIP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120)


class Metrics(Collector):
    """All metrics. ``expose`` reads most values from the other parts of the server.

    Args:
        pool: the kernels.
        broadcasts: the messages that wait for clients.
        finder: the kernel types; only these become labels.
        meter: measures the kernels' processes.
        logins: counts refused log-ins.
        sockets: counts the WebSockets of each user.

    Attributes:
        traffic: counts messages.
        start_seconds: the seconds from request to ready kernel.
        rate_limited: the number of starts and restarts that the rate limit has refused.
        connections: the connections of ``python -m kernelproto.server``; None in other programs.
    """

    def __init__(
        self,
        pool: KernelPool,
        broadcasts: Broadcasts,
        *,
        finder: KernelFinder,
        meter: UsageMeter,
        logins: Logins,
        sockets: UserSockets,
    ) -> None:
        self._pool = pool
        self._broadcasts = broadcasts
        self._finder = finder
        self._meter = meter
        self._logins = logins
        self._sockets = sockets
        self._registry = CollectorRegistry()
        self._types: dict[str, str] = {}
        self._types_until = 0.0
        self._memory = 0
        self.rate_limited = 0
        self.connections: Connections | None = None
        self.traffic = Traffic(self._note_round_trip)
        self.start_seconds = Histogram(
            "kernelproto_kernel_start_seconds",
            "Seconds from request to ready kernel.",
            buckets=_START_SECONDS,
            registry=self._registry,
        )
        self._round_trip_seconds = Histogram(
            "kernelproto_round_trip_seconds",
            "Seconds from a client's request on a WebSocket to its reply.",
            ["request"],
            buckets=_ROUND_TRIP_SECONDS,
            registry=self._registry,
        )
        self._lag_seconds = Histogram(
            "kernelproto_loop_lag_seconds",
            "Delay of the event loop in seconds, measured twice a second.",
            buckets=_LAG_SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def expose(self) -> bytes:
        """Return all metrics as text with the media type CONTENT_TYPE."""
        if time.monotonic() >= self._types_until:
            found = [kernel_type async for kernel_type, _ in self._finder.find_kernels()]
            self._types = launch_names(found)
            self._types_until = time.monotonic() + _TYPES_SECONDS
        usages = await self._meter.read(pids_of(self._pool.kernels()))
        self._memory = sum(usage.memory for usage in usages.values())
        return generate_latest(self._registry)

    async def watch_loop(self, *, period: float = _LAG_PERIOD_SECONDS) -> NoReturn:
        """Measure the lag of the event loop until cancelled.

        Args:
            period: seconds between two measurements.
        """
        while True:
            due = time.perf_counter() + period  # the clock of uvloop is coarse
            await anyio.sleep(period)
            self._lag_seconds.observe(max(0.0, time.perf_counter() - due))

    def collect(self) -> Iterator[Metric]:
        """Collect the values of the other parts of the server; part of Collector."""
        kernels = self._pool.kernels()
        counts = self._pool.counts
        backlog = self._broadcasts.backlog()
        yield self._kernels(kernels)
        yield GaugeMetricFamily(
            "kernelproto_kernels_memory_bytes",
            "Resident memory of all processes of kernels on this machine. Shared memory counts "
            "for each process.",
            self._memory,
        )
        yield CounterMetricFamily(
            "kernelproto_kernels_cpu_seconds",
            "Processor time of kernels on this machine, as of the last measurement.",
            self._meter.cpu_seconds,
        )
        yield GaugeMetricFamily(
            "kernelproto_users", "Users with a kernel.", len({k.user for k in kernels})
        )
        yield GaugeMetricFamily(
            "kernelproto_connected_users", "Users with a WebSocket.", self._sockets.users
        )
        yield GaugeMetricFamily(
            "kernelproto_waiting_requests",
            "Requests for a kernel that wait in the queue.",
            self._pool.waiting,
        )
        limits = {
            "max_kernels": self._pool.limits.max_kernels,
            "max_per_user": self._pool.limits.max_per_user,
            "max_websockets_per_user": self._sockets.most,
        }
        if self.connections is not None:
            limits["max_connections"] = self.connections.most
        yield _by_label(
            GaugeMetricFamily("kernelproto_limit", "Limits, by setting.", labels=["setting"]),
            limits,
        )
        yield GaugeMetricFamily(
            "kernelproto_connections",
            "WebSockets of clients.",
            sum(kernel.connections for kernel in kernels),
        )
        yield CounterMetricFamily(
            "kernelproto_kernel_starts", "Starts of kernels.", counts["started"]
        )
        yield CounterMetricFamily(
            "kernelproto_kernel_restarts",
            "Restarts of kernels, by users and after deaths.",
            counts["restarted"],
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_kernel_ends", "Ends of kernels, by reason.", labels=["reason"]
            ),
            {reason: counts[reason] for reason in _ENDS},
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_kernel_deaths",
                "Deaths of kernels, with and without a restart, by cause.",
                labels=["cause"],
            ),
            {cause: self._pool.deaths[cause] for cause in get_args(DeathCause)},
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_starts_refused",
                "Refused starts and restarts, by the limit that was reached.",
                labels=["by"],
            ),
            {
                "max_kernels": counts["full"],
                "max_per_user": counts["quota"],
                "rate_limit": self.rate_limited,
            },
        )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_logins_refused",
                "Refused requests with a token: the token was unknown, or too many log-ins from "
                "its address had failed.",
                labels=["reason"],
            ),
            {"unknown_token": self._logins.refused, "too_many_failures": self._logins.limited},
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
                "Open connections, including WebSockets.",
                self.connections.open,
            )
            yield CounterMetricFamily(
                "kernelproto_connections_displaced",
                "Connections without a request that were closed to make room for new connections.",
                self.connections.displaced,
            )
        yield _by_label(
            CounterMetricFamily(
                "kernelproto_connections_refused",
                "Refused connections and WebSockets, by the limit that was reached.",
                labels=["limit"],
            ),
            {
                "max_connections": self.connections.refused if self.connections else 0,
                "max_websockets_per_user": self._sockets.refused,
            },
        )
        yield GaugeMetricFamily(
            "kernelproto_kept_bytes",
            "Size of the messages that are kept for clients that are slow or away.",
            backlog.kept_bytes,
        )
        yield GaugeMetricFamily(
            "kernelproto_unsent_messages",
            "Messages that wait to be sent to clients.",
            backlog.unsent,
        )
        yield GaugeMetricFamily(
            "kernelproto_unsent_messages_slowest",
            "Messages that wait to be sent to the slowest client.",
            backlog.slowest,
        )

    def _kernels(self, kernels: list[PooledKernel]) -> Metric:
        """Count kernels by type and state; the type of a start that fails may be unknown."""
        types = sorted({*self._types.values(), _OTHER})
        found = dict.fromkeys(((name, state) for name in types for state in _STATES), 0)
        for kernel in kernels:
            name = self._types.get(kernel.kernel_type.lower(), _OTHER)
            found[name, kernel.state] += 1
        family = GaugeMetricFamily(
            "kernelproto_kernels", "Kernels, by type and state.", labels=["type", "state"]
        )
        for labels, count in found.items():
            family.add_metric(labels, count)
        return family

    def _note_round_trip(self, msg_type: str, seconds: float) -> None:
        request = msg_type.removesuffix("_request") if msg_type in _REQUESTS else _OTHER
        self._round_trip_seconds.labels(request).observe(seconds)
        trace_past(f"request {request}", seconds)


def _by_label(
    family: GaugeMetricFamily | CounterMetricFamily, values: dict[str, int]
) -> GaugeMetricFamily | CounterMetricFamily:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
