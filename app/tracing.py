"""OpenTelemetry traces, when the standard ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set and the ``otel`` extra installed.

One span per request, with a child for each stage; the trace of a caller's ``traceparent`` is continued. Attributes hold
the route, status and request id, never an image or a question.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from app.engine.stages import Stages

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Sends what the telemetry middleware tells it. ``provider`` is an OpenTelemetry tracer provider."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("crosslook")
        self._propagator = TraceContextTextMapPropagator()

    def request(
        self, name: str, *, start: float, stages: Stages | None, attributes: dict[str, Any], headers: dict[str, str]
    ) -> None:
        """Record one finished request; ``start`` and the stages' times are `time.perf_counter`."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        offset = time.time() - time.perf_counter()

        def nanoseconds(moment: float) -> int:
            return int((moment + offset) * 1e9)

        context = self._propagator.extract(headers)
        kind = SpanKind.SERVER
        span = self._tracer.start_span(
            name, context=context, kind=kind, start_time=nanoseconds(start), attributes=attributes
        )
        inside = set_span_in_context(span)
        for stage, (began, seconds) in (stages.spans if stages is not None else {}).items():
            child = self._tracer.start_span(stage, context=inside, start_time=nanoseconds(began))
            child.end(nanoseconds(began + seconds))
        if attributes.get("http.response.status_code", 0) >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(nanoseconds(time.perf_counter()))

    def flush(self) -> None:
        """Send what is held now. Blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what is still held."""
        self._provider.shutdown()


def tracer() -> Tracer | None:
    """The tracer that the environment asks for; None for none."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.error("an OTLP endpoint is set, but the `otel` extra is not installed: no traces")
        return None
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "crosslook")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider)
