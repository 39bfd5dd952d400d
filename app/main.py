"""The application: wiring only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import crosslook
from app import errors, openapi
from app.auth import Keys
from app.drawing import Drawing
from app.engine.engine import LOADER, Engine
from app.envelopes import ErrorEnvelope
from app.image_names import ImageNames
from app.intake import decode
from app.intake.fetch import Fetcher
from app.limits import BodyLimit
from app.metrics import Metrics
from app.prefix import Prefixed
from app.rate_store import limiter_of
from app.request_context import image_limits
from app.routes import (
    caption_match,
    embeddings,
    health,
    huggingface,
    inference_v2,
    metrics,
    native,
    openai,
    overlay,
    page,
    responses,
)
from app.settings import Settings
from app.telemetry import Telemetry
from app.tracing import Tracer, tracer

_EXPOSED = ["X-Request-ID", "X-Cache", "X-Error-Code", "Server-Timing", "Retry-After"]


def create_app(settings: Settings | None = None, *, loader: str = LOADER) -> FastAPI:
    """The service. ``loader`` (``module:function``) makes the model in the worker; tests put their own there."""
    chosen = settings or Settings()
    figures = Metrics()
    tracers: list[Tracer] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        decode.configure(image_limits(chosen))
        tracers.extend(filter(None, [tracer()]))
        app.state.engine = engine = Engine(chosen, loader=loader, observer=figures.observer())
        app.state.drawing = drawing = Drawing(chosen)
        figures.watch(engine)
        engine.start()
        try:
            yield
        finally:
            await engine.stop()
            drawing.close()
            await app.state.limiter.close()
            for each in tracers:
                await asyncio.to_thread(each.close)

    app = FastAPI(
        title="crosslook",
        version=crosslook.__version__,
        summary="Ask a question about an image. Get the answer and, for every word, where the model looked.",
        lifespan=lifespan,
        docs_url=None,  # app/routes/page.py has it, with a policy that lets it run
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
        openapi_url="/openapi.json" if chosen.docs else None,
    )
    # Not uvicorn's: that refuses requests whose prefix the proxy left, which this takes as well.
    app.root_path = chosen.root_path
    app.add_middleware(Prefixed)
    app.state.settings = chosen
    app.state.metrics = figures
    app.state.tracers = tracers
    app.state.keys = Keys(chosen.api_keys)
    app.state.image_names = ImageNames()
    app.state.limiter = limiter_of(chosen)
    app.state.fetcher = Fetcher(chosen) if chosen.allow_urls else None
    errors.install(app)
    app.add_middleware(
        BodyLimit,
        max_bytes=chosen.body_bytes,
        seconds=chosen.request_seconds,
        admission=lambda: app.state.engine.admission,
    )
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.cors_origins,
            allow_methods=["GET", "POST"],
            # Any: clients have headers of their own (x-stainless-*, traceparent), and none makes the server do more
            # than it does for whoever may send them without a browser.
            allow_headers=["*"],
            allow_private_network=True,  # a page of an allowed origin on the Internet asks a server in a private net
            expose_headers=_EXPOSED,
        )
    app.add_middleware(Telemetry, metrics=figures, tracer=tracers)
    for dialect, wrap in ((huggingface, huggingface.flat_error), (inference_v2, inference_v2.plain_error)):
        app.add_middleware(ErrorEnvelope, ours=dialect.is_ours, wrap=wrap)  # added last, so outermost
    dialects = (embeddings, openai, responses, huggingface, inference_v2)
    for module in (native, caption_match, *dialects, overlay, health, metrics, page):
        app.include_router(module.router)
    if chosen.docs:
        app.include_router(page.documentation)
    openapi.install(app, chosen)
    return app
