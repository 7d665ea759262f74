"""Spans of OpenTelemetry; no operation without the API, or without an SDK that collects spans."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

from kernelproto.log_fields import log_fields

try:
    from opentelemetry.trace import Tracer, get_tracer
except ModuleNotFoundError:
    _tracer: Tracer | None = None
else:
    _tracer = get_tracer("kernelproto")


def span(name: str) -> AbstractContextManager[object]:
    """Trace a block. Inner spans become children; an exception is recorded.

    The span has the kernel and the user of the log fields as attributes.

    Args:
        name: the name of the operation.
    """
    if _tracer is None:
        return nullcontext()
    return _tracer.start_as_current_span(f"kernelproto {name}", attributes=_attributes())


def trace_past(name: str, seconds: float) -> None:
    """Trace an operation that ends now.

    Args:
        name: the name of the operation.
        seconds: the duration.
    """
    if _tracer is not None:
        now = time.time_ns()
        began = now - int(seconds * 1e9)
        past = _tracer.start_span(f"kernelproto {name}", attributes=_attributes(), start_time=began)
        past.end(now)


def _attributes() -> dict[str, str]:
    return {f"kernelproto.{key}": value for key, value in log_fields().items()}
