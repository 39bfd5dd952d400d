"""Prometheus metrics, in a registry of the app's own. Names and meanings are what docs/operations.md prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from app.engine.engine import Engine
from app.engine.options import Observer
from app.engine.stages import Stages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(f"crosslook_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
            return Histogram(f"crosslook_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests answered.", "route", "status")
        self.errors = counter("errors", "Errors answered, by code of the wire.", "code")
        self.request_seconds = histogram("request_seconds", "From the first byte to the last.", _SECONDS, "route")
        self.stage_seconds = histogram("stage_seconds", "Time of requests in each stage.", _SECONDS, "stage")
        self.cache = counter("cache_requests", "Images asked for: hit, shared (joined an encode) or miss.", "result")
        self.batches = counter(
            "batches", "Calls of the model; reason: full, free (the worker was), waited.", "kind", "reason"
        )
        self.batch_size = histogram("batch_size", "Images (encode) or texts (run) in a call.", _SIZES, "kind")
        self.batch_seconds = histogram("batch_seconds", "The model's own time for a call.", _SECONDS, "kind")
        self.wait_seconds = histogram("wait_seconds", "From a request's arrival to its call.", _SECONDS, "kind")
        self.dropped = counter("dropped", "Jobs whose client left or whose time was over before their call.", "kind")
        self.abandoned = counter("abandoned", "Requests whose client left before the answer.")
        self.restarts = counter("worker_restarts", "Workers lost and started again.")

    def observer(self) -> Observer:
        """What the engine reports to."""

        def batch(kind: str, reason: str, size: int, seconds: float) -> None:
            self.batches.labels(kind, reason).inc()
            self.batch_size.labels(kind).observe(size)
            self.batch_seconds.labels(kind).observe(seconds)

        return Observer(
            batch=batch,
            waited=lambda kind, seconds: self.wait_seconds.labels(kind).observe(seconds),
            dropped=lambda kind: self.dropped.labels(kind).inc(),
            restarted=self.restarts.inc,
        )

    def watch(self, engine: Engine) -> None:
        """Read the engine's own figures whenever metrics are asked for."""
        self.registry.register(EngineCollector(engine))

    def answered(self, stages: Stages, cache: str) -> None:
        """Note where one answered request's time went."""
        self.cache.labels(cache).inc()
        for name, (_, seconds) in stages.spans.items():
            self.stage_seconds.labels(name).observe(seconds)

    def finished(self, route: str, status: int, code: str, seconds: float) -> None:
        """Note one finished request."""
        self.requests.labels(route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)
        if code:
            self.errors.labels(code).inc()

    def exposition(self) -> bytes:
        """The text format."""
        return bytes(generate_latest(self.registry))


class EngineCollector:
    """Figures that the engine keeps anyway."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """One metric family per figure."""
        engine, admission, replicas = self.engine, self.engine.admission, self.engine.replicas
        gauges: list[tuple[str, str, float]] = [
            ("queue_items", "Questions and images accepted and not answered yet.", admission.items),
            ("queue_bytes", "Bytes of request bodies held.", admission.nbytes),
            ("queue_wait_seconds", "Estimated wait of a request that came now.", engine.wait()),
            (
                "queue_encodes",
                "Images decoded and waiting for the vision encoder.",
                sum(x.batcher.encodes for x in replicas),
            ),
            ("queue_texts", "Texts waiting for the model.", sum(replica.batcher.texts for replica in replicas)),
            ("cache_bytes", "Bytes of encoded images kept.", sum(replica.cache.nbytes for replica in replicas)),
            (
                "cache_images",
                "Encoded images kept.",
                sum(entry.ready for replica in replicas for entry in replica.cache),
            ),
            ("workers_ready", "Workers that can answer now.", sum(replica.state == "ready" for replica in replicas)),
            ("ready", "1 when /health/ready says 200.", float(engine.ready)),
        ]
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"crosslook_{name}", text, value)
        evictions = sum(replica.cache.evictions for replica in replicas)
        yield CounterMetricFamily("crosslook_cache_evictions", "Encoded images dropped to make room.", evictions)
        yield CounterMetricFamily("crosslook_images_encoded", "Images through the vision encoder.", engine.encoded)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: asking the engine must not be needed to register."""
        return []
