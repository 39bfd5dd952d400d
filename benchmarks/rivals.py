"""What people would otherwise put in front of the same model: here a plain FastAPI endpoint, in `benchmarks.lit`
LitServe with batching.

``python -m benchmarks.rivals PORT THREADS WORKERS``. Both take the same multipart request as ``POST /v1/answer``,
decode with the same code and write the same body, so that what differs is the serving. Neither caches; that is the
point of comparing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fastapi import FastAPI, Request, Response

from app import wire
from app.engine.engine import LOADER
from app.engine.messages import Load
from app.engine.worker import load, warm_up
from app.intake import decode, images
from model.interface import Item, MapRequest, Model, Output, Pixels

LIMITS = decode.ImageLimits(20 << 20, 50_000_000, 16_384, 8)


def load_model(threads: int) -> Model:
    """The model that crosslook serves, on as many threads, in PyTorch and float32: as it was trained and would be
    served by hand."""
    name = os.environ.get("CROSSLOOK_MODEL", "compact")
    model = load(Load(LOADER, {"name": name, "device": "cpu", "threads": threads, "kernel": "auto", "dtype": "torch"}))
    warm_up(model)
    return model


def pixels(model: Model, data: bytes) -> Pixels:
    """Decode and preprocess."""
    return images.loader(data, LIMITS)(model.info.preprocess)


def answer(model: Model, batch: list[tuple[Pixels, list[str], str]]) -> list[bytes]:
    """Bodies of a batch of requests, encoded and run together."""
    encoded = model.encode([image for image, _, _ in batch])
    items = [
        Item(image, tuple(questions), maps=None if maps == "none" else MapRequest())
        for image, (_, questions, maps) in zip(encoded, batch, strict=True)
    ]
    bodies = []
    for image, (_, questions, maps), output in zip(encoded, batch, model.run("answer", items), strict=True):
        if not isinstance(output, Output):
            raise TypeError(output)
        choice: Any = maps
        body = wire.answer_response(model.info, "img", image.geometry, questions, output, choice)
        bodies.append(body.model_dump_json().encode())
    return bodies


def plain(threads: int) -> FastAPI:
    """What a tutorial shows: a route that runs the model in FastAPI's thread pool, one request at a time."""
    app = FastAPI()
    model = load_model(threads)
    lock = asyncio.Lock()

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/answer")
    async def ask(request: Request) -> Response:
        form = await request.form()
        file: Any = form["image"]
        data = await file.read()
        questions = [str(question) for question in form.getlist("question")]
        maps = str(form.get("maps", "float"))
        image = await asyncio.to_thread(pixels, model, data)
        async with lock:  # the model takes one caller at a time
            body = (await asyncio.to_thread(answer, model, [(image, questions, maps)]))[0]
        return Response(body, media_type="application/json")

    return app


def plain_app() -> FastAPI:
    """For uvicorn's worker processes."""
    return plain(int(os.environ["RIVAL_THREADS"]))


def main(argv: list[str]) -> None:
    """Serve the plain endpoint."""
    import uvicorn

    port, os.environ["RIVAL_THREADS"], workers = int(argv[0]), argv[1], int(argv[2])
    app = "benchmarks.rivals:plain_app"
    uvicorn.run(app, factory=True, port=port, workers=workers, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
