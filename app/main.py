"""The application: wiring only."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import crosslook
from app import errors, intake
from app.dependencies import image_limits
from app.engine.engine import LOADER, Engine
from app.routes import health, native, page
from app.settings import Settings
from app.telemetry import Telemetry

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, *, loader: str = LOADER) -> FastAPI:
    """The service. ``loader`` (``module:function``) makes the model in the worker; tests put their own there."""
    chosen = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        intake.configure(image_limits(chosen))
        engine = Engine(chosen, loader=loader)
        app.state.engine = engine
        engine.start()
        try:
            yield
        finally:
            await engine.stop()

    app = FastAPI(
        title="crosslook",
        version=crosslook.__version__,
        summary="Ask a question about an image. Get the answer and, for every word, where the model looked.",
        lifespan=lifespan,
        root_path=chosen.root_path,
        docs_url="/docs" if chosen.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if chosen.docs else None,
    )
    app.state.settings = chosen
    errors.install(app)
    app.add_middleware(Telemetry)
    app.include_router(native.router)
    app.include_router(health.router)
    app.include_router(page.router)
    return app
