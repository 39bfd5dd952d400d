"""``POST /v1/overlay``: a map drawn over its image, as PNG, by the code that the client uses too."""

from __future__ import annotations

from time import perf_counter

from fastapi import APIRouter, Request, Response
from PIL import Image

from app import wire
from app.dependencies import AskerDep, DrawingDep
from app.drawing import fitted
from app.errors import RequestError, only_text
from app.intake import bodies, decode
from app.intake.images import in_original
from app.openapi import EXAMPLE_IMAGE, errors, two_encodings
from app.request_context import distinct, map_request
from crosslook.overlay import draw_answer, draw_map
from crosslook.results import Answer, read_answers
from crosslook.types import MapOptions, OverlayRequest

router = APIRouter(prefix="/v1", tags=["native"])

_LISTS = {"candidates": "candidates", "layers": "layers", "heads": "heads"}


@router.post(
    "/overlay",
    response_class=Response,
    openapi_extra={
        "requestBody": two_encodings(
            OverlayRequest,
            repeated={},
            examples={"one question": {"image": EXAMPLE_IMAGE, "question": "What color is the dot?"}},
        )
    },
    responses={**errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504), 200: {"content": {"image/png": {}}}},
    summary="A map drawn over its image",
)
async def overlay(request: Request, context: AskerDep, drawing: DrawingDep) -> Response:
    """Ask one question about one image and get the map as a PNG of the image's own size (upright, after its EXIF
    rotation), or with a longer side of 2048 pixels where the image has more: the answer's own map, one word's, or a
    sheet with all of them.

    The image is sent by value (`image`, a file or base64): the server keeps no image, only what the model made of it.
    """
    body, file = await bodies.read(request, OverlayRequest, repeated=_LISTS)
    with only_text("question"):
        context.check_texts([body.question])
    info = context.model(body.model)
    maps = map_request(MapOptions(map_kind=body.map_kind, layers=body.layers, heads=body.heads), info)
    candidates = None if body.candidates is None else distinct(body.candidates)
    data = await context.data(file=file, text=body.image)
    with drawing.admission.hold(images=1):
        with only_text("question"):
            answered = await context.run(
                "answer", await context.by_value(data), [body.question], candidates=candidates, maps=maps
            )
        start = perf_counter()
        size = fitted(answered.geometry)
        geometry = in_original(answered.geometry, *size)  # the map in pixels of what is drawn on

        def read() -> Answer:
            questions = [body.question]
            response = wire.answer_response(info, answered.image_id, geometry, questions, answered.output, "float")
            return read_answers(response, None)[0]

        answer = await wire.formatted(answered.output, read)
        if body.word is not None and body.word >= len(answer.words):
            message = f"The question has {len(answer.words)} words, counted from 0."
            raise RequestError("invalid_request", message, param="word", detail={"words": len(answer.words)})

        def fit(opened: decode.RenderedImage) -> Image.Image:
            image = opened.image
            if image.size == size:
                return image
            return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)  # the whole one is let go of

        def draw() -> Image.Image:
            return _draw(decode.use_image(data, context.limits, fit, side=min(size)), answer, body)

        png = await context.in_time(drawing.draw(draw))
    answered.stages.add("format", start, perf_counter())
    return Response(png, headers=context.headers(answered), media_type="image/png")


def _draw(image: Image.Image, answer: Answer, options: OverlayRequest) -> Image.Image:
    if options.sheet:
        return draw_answer(image, answer)
    chosen = answer.map if options.word is None else answer.words[options.word]
    if chosen is None:
        return image
    return draw_map(image, chosen, opacity=options.opacity, legend=options.legend)
