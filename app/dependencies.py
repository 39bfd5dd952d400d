"""What routes ask for, in one place. All of it is async: FastAPI sends anything else through a thread."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth import Keys
from app.drawing import Drawing
from app.engine.engine import Engine
from app.metrics import Metrics
from app.request_context import RequestContext
from app.settings import Settings

_bearer = HTTPBearer(auto_error=False, description="The API key, where the operator has set any.")


async def get_engine(request: Request) -> Engine:
    """The engine of this app."""
    return cast(Engine, request.app.state.engine)


async def get_settings(request: Request) -> Settings:
    """The settings of this app."""
    return cast(Settings, request.app.state.settings)


async def get_metrics(request: Request) -> Metrics:
    """The metrics of this app."""
    return cast(Metrics, request.app.state.metrics)


async def get_drawing(request: Request) -> Drawing:
    """Where this app draws."""
    return cast(Drawing, request.app.state.drawing)


async def get_caller(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """The name of the caller's API key.

    Raises: `RequestError` ``invalid_api_key``.
    """
    caller = cast(Keys, request.app.state.keys).caller(request.headers.get("authorization"))
    request.state.caller = caller  # for the log
    return caller


EngineDep = Annotated[Engine, Depends(get_engine)]
SettingsDep = Annotated[Settings, Depends(get_settings)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
DrawingDep = Annotated[Drawing, Depends(get_drawing)]
CallerDep = Annotated[str, Depends(get_caller)]


async def get_asker(request: Request, caller: CallerDep) -> RequestContext:
    """This request's way to the model; checks the API key first. The rest is read here: what FastAPI resolves for a
    route costs a request more than what the route does with it."""
    state = request.app.state
    return RequestContext(
        request,
        caller=caller,
        engine=state.engine,
        settings=state.settings,
        limiter=state.limiter,
        fetcher=state.fetcher,
        metrics=state.metrics,
    )


AskerDep = Annotated[RequestContext, Depends(get_asker)]
