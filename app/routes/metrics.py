"""``GET /metrics`` for Prometheus. No key is asked for: keep the route inside by the proxy if figures are secret."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.dependencies import MetricsDep
from app.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(metrics: MetricsDep) -> Response:
    """Queues, batches, cache, stages and errors, in Prometheus' text format."""
    return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})
