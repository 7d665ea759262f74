"""Spans of OpenTelemetry, where its API is installed; nothing otherwise.

The API does nothing either until the program has an SDK that collects spans.
"""

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
    """Trace a block, and what is traced in it; an exception that leaves it is part of that.

    Its attributes are those of the log's records.

    Args:
        name: what is done.
    """
    if _tracer is None:
        return nullcontext()
    return _tracer.start_as_current_span(f"kernelproto {name}", attributes=_attributes())


def trace_past(name: str, seconds: float) -> None:
    """Trace what is over now.

    Args:
        name: what it was.
        seconds: how long it took.
    """
    if _tracer is not None:
        now = time.time_ns()
        began = now - int(seconds * 1e9)
        past = _tracer.start_span(f"kernelproto {name}", attributes=_attributes(), start_time=began)
        past.end(now)


def _attributes() -> dict[str, str]:
    return {f"kernelproto.{key}": value for key, value in log_fields().items()}
