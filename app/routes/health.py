"""Probes: they need no key and tell the truth."""

from __future__ import annotations

from fastapi import APIRouter

from app.dependencies import EngineDep
from app.errors import RequestError
from app.openapi import errors

router = APIRouter(prefix="/health", tags=["health"])


@router.head("/live", include_in_schema=False)
@router.get("/live", summary="Is the process alive?")
async def live() -> dict[str, str]:
    """200 for as long as the server answers at all. Restart the process when this fails."""
    return {"status": "live"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses=errors(503), summary="Can a request be answered now?")
async def ready(engine: EngineDep) -> dict[str, str]:
    """200 when the model is loaded, warm and its worker alive; 503 while it starts, restarts or drains."""
    if engine.draining:
        raise RequestError("shutting_down", "This server is draining.", retry_after=5.0)
    if engine.failed:
        raise RequestError("not_ready", "The model cannot be loaded; see the log.", retry_after=60.0)
    if not engine.ready:
        raise RequestError("not_ready", "The worker is starting.", retry_after=5.0)
    return {"status": "ready"}
