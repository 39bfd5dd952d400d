"""crosslook on Ray Serve: the whole service in each replica, with Ray's router, health checks and autoscaler.

``serve run app.ray_serve:build`` starts it; deploy/ray has the manifest for KubeRay, docs/scaling.md what to expect.
Settings are the replicas' own CROSSLOOK_* variables. Nothing else of the service imports this module, or Ray.

What Ray does and the service therefore does not: where a request goes (by ``X-Session-ID``, to the replica that has the
image), how many replicas there are (by the wait at each), and starting one again that is lost. What the service keeps:
its queue, its refusals and its drain; Ray's own queue is off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.util import metrics as ray_metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine.engine import LOADER, Engine
from app.logs import configure_logging
from app.main import create_app
from app.metrics import Metrics
from app.settings import Settings

TARGET_WAIT = 1.0
"""Seconds that a request may wait at each replica before there shall be more of them."""

_WAIT = "queue_wait_seconds"
_BEYOND_THE_QUEUE = 64  # requests that Ray hands over and the service refuses by itself, with its own words
_REPORT = 5.0  # seconds between two reports of metrics
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


class Options(BaseModel):
    """Arguments of the application (``args`` of Serve's configuration, ``name=value`` of ``serve run``)."""

    model_config = ConfigDict(extra="forbid")

    replicas: int | None = Field(None, ge=1, description="A fixed number of them, in place of autoscaling.")
    autoscaling: dict[str, Any] = Field(
        default_factory=dict, description="Of Ray's AutoscalingConfig, over the defaults here."
    )
    num_cpus: float | None = Field(None, gt=0, description="Of each replica; absent: workers times threads.")
    num_gpus: float = Field(0.0, ge=0, description="Of each replica.")
    loader: str = Field(LOADER, description="What makes the model; tests put their own there.")


def replica_settings() -> Settings:
    """The settings of one replica: one worker of one thread where they say nothing, since a node holds several."""
    settings = Settings()
    ours = {"workers": settings.workers or 1, "threads": settings.threads or 1}
    ours["decode_threads"] = settings.decode_threads or ours["workers"] * ours["threads"]
    return settings.model_copy(update=ours)


class OneRequestId:
    """Middleware: drops the service's ``X-Request-ID``, since Ray's proxy sets the same one on the response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self.app(scope, receive, send_once)


class MetricsReport:
    """The service's own metrics to Ray's agents, which Prometheus asks: ``/metrics`` answers for one replica by chance.

    They are ``ray_crosslook_..`` there, with the replica among the labels. A counter is reported by what it grew.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._made: dict[str, Any] = {}
        self._last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def send(self) -> None:
        """Report what there is now."""
        for family in self._metrics.registry.collect():
            if not family.name.startswith("crosslook_"):
                continue
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    grows = family.type in ("counter", "histogram")
                    self._sample(sample.name, family.documentation, sample.labels, sample.value, grows=grows)

    def _sample(self, name: str, meaning: str, labels: Mapping[str, str], value: float, *, grows: bool) -> None:
        if name not in self._made:
            kind = ray_metrics.Counter if grows else ray_metrics.Gauge
            self._made[name] = kind(name.removesuffix("_total"), description=meaning, tag_keys=tuple(labels))
        tags = dict(labels)
        if not grows:
            self._made[name].set(value, tags=tags)
            return
        key = (name, tuple(sorted(tags.items())))
        more = value - self._last.get(key, 0.0)
        if more > 0:
            self._made[name].inc(more, tags=tags)
            self._last[key] = value


def replicas_for_the_wait(context: Any) -> tuple[float, dict[str, Any]]:
    """Ray's autoscaling policy: as many replicas as would have `TARGET_WAIT` seconds of work each, were what waits at
    all of them spread evenly; at most twice as many as there are. Ray applies bounds and delays."""
    waits = dict(context.aggregated_metrics or {}).get(_WAIT, {})
    if not waits:
        return context.target_num_replicas, {}
    return min(sum(waits.values()) / TARGET_WAIT, 2.0 * context.current_num_replicas), {}


@serve.ingress()
class Crosslook:
    """One replica."""

    def __init__(self, loader: str = LOADER) -> None:
        settings = replica_settings()
        configure_logging(settings.log_level, settings.log_format)
        self._built = create_app(settings, loader=loader)
        self._reporting: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return OneRequestId(self._built)

    @property
    def _engine(self) -> Engine:
        engine: Engine = self._built.state.engine
        return engine

    async def check_health(self) -> None:
        """Ray asks once before requests come here, and then again and again.

        The first time waits for the model. Raises: RuntimeError where it cannot be loaded: Ray then starts another
        replica. (A worker that died is started again by the engine.)
        """
        if self._engine.info is None:
            await self._engine.wait_ready()
        if self._engine.failed:
            raise RuntimeError(f"the model cannot be loaded: {self._engine.failure}")
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_for_the_wait` decides by."""
        return {_WAIT: self._engine.wait()}

    async def _report(self) -> None:
        report = MetricsReport(self._built.state.metrics)
        while True:
            with contextlib.suppress(ValueError):  # Ray has gone, or does not take a value
                report.send()
            await asyncio.sleep(_REPORT)


def build(arguments: Mapping[str, Any]) -> Any:
    """The application, for ``serve run`` and for ``import_path`` of Serve's configuration. ``arguments``: `Options`.

    Raises: pydantic.ValidationError.
    """
    options, settings = Options.model_validate(arguments), replica_settings()
    cpus = options.num_cpus or float((settings.workers or 1) * (settings.threads or 1))
    scaling: dict[str, Any] = {"num_replicas": options.replicas}
    if options.replicas is None:
        defaults = {
            "min_replicas": 1,
            "max_replicas": 4,
            "upscale_delay_s": 10.0,
            "downscale_delay_s": 300.0,
            "policy": {"policy_function": f"{__name__}:{replicas_for_the_wait.__name__}"},
        }
        scaling = {"autoscaling_config": {**defaults, **options.autoscaling}}
    deployment = serve.deployment(
        name="crosslook",
        max_ongoing_requests=settings.queue_items + _BEYOND_THE_QUEUE,
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=settings.drain_seconds + 10.0,
        health_check_period_s=5.0,
        health_check_timeout_s=10.0,
        ray_actor_options={"num_cpus": cpus, "num_gpus": options.num_gpus},
        request_router_config=RequestRouterConfig(
            # No other one, also when the image's is slow to say that it has room: it has, and refuses by itself.
            request_router_class=_ROUTER,
            request_router_kwargs={"num_fallback_replicas": 0},
        ),
        **scaling,
    )(Crosslook)
    return deployment.bind(options.loader)


__all__ = ["Crosslook", "Options", "build"]
