"""Spans of OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kernelproto.server.telemetry import tracing

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def exporter(monkeypatch) -> Iterator[InMemorySpanExporter]:
    """Return a collector of spans; the process-wide one could not be removed after the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("kernelproto"))
    yield exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("acknowledges", [False, True])
async def test_spans_of_a_kernel(serving, exporter, acknowledges: bool) -> None:
    async with serving() as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        one = f"/api/kernels/{kernel_id}"
        async with server.connect("ada", kernel_id, acknowledges=acknowledges) as socket:
            await socket.finish(await socket.execute("6 * 7"))
        await ada.post(f"{one}/interrupt")
        await ada.post(f"{one}/restart")
        await ada.delete(one)
    spans = by_name(exporter)
    assert set(spans) == {
        "kernelproto start",
        "kernelproto request execute",
        "kernelproto interrupt",
        "kernelproto restart",
        "kernelproto end",
    }
    for span in spans.values():
        assert span.attributes == {"kernelproto.user": "ada", "kernelproto.kernel_id": kernel_id}
        assert span.start_time < span.end_time


async def test_span_records_a_failure(serving, exporter) -> None:
    async with serving() as server, server.client("ada") as ada:
        assert (await ada.post("/api/kernels", json={"name": "nonsense"})).status_code == 404
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


def test_tracing_without_the_api() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = sys.modules["opentelemetry.trace"] = None
from kernelproto.server.telemetry.tracing import span, trace_past
with span("start"):
    trace_past("request", 1.0)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
