"""The native routes: ``POST /v1/answer``, ``POST /v1/images`` and ``GET /v1/models``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request, Response

from app import npz, wire
from app.dependencies import AskerDep, CallerDep, EngineDep, SettingsDep
from app.engine.engine import Answered, ImageSource
from app.errors import RequestError, request_id_of
from app.intake import bodies
from app.openapi import EXAMPLE_IMAGE, errors, two_encodings
from app.points import with_points
from app.request_context import RequestContext, check_language, distinct, generation_of, map_request
from app.settings import Settings
from app.streaming import Followed, error_event, event, respond
from crosslook.types import (
    AnswerRequest,
    AnswerResponse,
    ImageUploadRequest,
    ImageUploadResponse,
    ModelCard,
    ModelLimits,
    ModelList,
)
from model.interface import ModelInfo, Progress

router = APIRouter(prefix="/v1", tags=["native"])
_STARTED = int(time.time())
_ANSWER_LISTS = {
    "question": "questions",
    "questions": "questions",
    "candidates": "candidates",
    "layers": "layers",
    "heads": "heads",
    "stop": "stop",
    "images": "images",
}


@router.post(
    "/answer",
    response_model=AnswerResponse,
    openapi_extra={
        "requestBody": two_encodings(
            AnswerRequest,
            repeated={"questions": "question"},
            examples={
                "two questions": {"image": EXAMPLE_IMAGE, "questions": ["What color is the dot?", "Is it a square?"]}
            },
        )
    },
    responses={
        200: {"content": {npz.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
        **errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504),
    },
    summary="Questions about one image",
)
async def answer(request: Request, context: AskerDep) -> Response:
    """Ask one or more questions about one image; every answer comes with where the model looked.

    Send `multipart/form-data` (`image` file or `image_id`, `question` once or more) or JSON. All questions are
    answered or none: an error names the question at fault. An answer is in its question's language, unless `language`
    asks for another; `english` is then beside it. Models that take several images in a question get them in `images`
    (JSON); each map then has `others`, its values on the images behind the first. The body depends on the request
    alone; the request id, stage times and whether the image was known are headers. With `stream`, answers come while
    they are written. With `Accept: application/x-npz` the maps come as NumPy's arrays (`app/npz.py` has their names).
    """
    body, file = await bodies.read(request, AnswerRequest, repeated=_ANSWER_LISTS)
    context.check_texts(body.questions)
    info = context.model(body.model, "answer")
    maps = map_request(body, info)
    check_language(body.language, info)
    candidates = None if body.candidates is None else distinct(body.candidates)
    image = await _image(context, body, file)

    def run(on_progress: Callable[[Progress], None] | None) -> Coroutine[Any, Any, Answered]:
        return context.run(
            "answer",
            image,
            body.questions,
            candidates=candidates,
            top_k=body.top_k,
            language=body.language,
            maps=maps,
            generation=generation_of(body, info),
            on_progress=on_progress,
        )

    async def formatted(answered: Answered, *, as_file: bool) -> str | bytes:
        start = perf_counter()
        output = answered.output

        def content() -> str | bytes:
            shown = npz.without_maps(output) if as_file else output
            response = wire.answer_response(
                info, answered.image_id, answered.geometry, body.questions, shown, body.maps
            )
            if as_file:
                return npz.answer_file(response, output)
            return wire.to_json(with_points(response) if body.points else response)

        made = await wire.formatted(output, content)
        answered.stages.add("format", start, perf_counter())
        return made

    if body.stream:
        followed = await Followed.begin(run)
        name = request_id_of(request)

        async def whole(answered: Answered) -> str:
            return str(await formatted(answered, as_file=False))

        return respond(followed, _events(context, followed, whole), lambda error: error_event(error, name, "error"))
    as_file = npz.wanted(request)
    answered = await run(None)
    if as_file and answered.geometry.others:
        raise RequestError("invalid_request", "A file of arrays has the maps of one image.", param="images")
    made = await formatted(answered, as_file=as_file)
    kind = npz.MEDIA_TYPE if as_file else "application/json"
    return Response(made, headers=context.headers(answered), media_type=kind)


async def _image(context: RequestContext, body: AnswerRequest, file: bytes | None) -> ImageSource:
    """The image that a request is about, or the images."""
    if body.images is None:
        return await context.image(file=file, text=body.image, image_id=body.image_id)
    if file is not None or body.image is not None or body.image_id is not None:
        raise RequestError("invalid_request", "Give images, or one image, or its id.", param="images")
    return await context.images(body.images, [f"images[{i}]" for i in range(len(body.images))])


async def _events(
    context: RequestContext, followed: Followed, formatted: Callable[[Answered], Awaitable[str]]
) -> AsyncIterator[str]:
    """What a stream sends: tokens as they are written, then the response."""
    async for step in followed.progress():
        tokens = [{"text": choice.text, "logprob": choice.log_probability} for choice in step.choices]
        yield event({"question": step.index, "text": step.text, "tokens": tokens}, "token")
    answered = await followed.answered()
    text = await formatted(answered)
    context.headers(answered)  # for the metrics; those of the response are gone
    yield event(text, "answer")


@router.post(
    "/images",
    response_model=ImageUploadResponse,
    openapi_extra={
        "requestBody": two_encodings(ImageUploadRequest, repeated={}, examples={"an image": {"image": EXAMPLE_IMAGE}})
    },
    responses=errors(400, 401, 408, 413, 415, 422, 429, 503, 504),
    summary="Encode an image ahead of its questions",
)
async def upload(request: Request, context: AskerDep) -> Response:
    """Send an image once and ask about it later by `image_id`: for as long as the server keeps it, and only with the
    API key that sent it. When it is gone, requests get 404 `image_not_found`: send the bytes again."""
    body, file = await bodies.read(request, ImageUpload, repeated={})
    context.model(None)
    image = await context.image(file=file, text=body.image)
    uploaded = await context.encode(image)
    content = ImageUploadResponse(image=wire.image_ref(uploaded.image_id, uploaded.geometry)).model_dump_json()
    return Response(content, headers=context.headers(uploaded), media_type="application/json")


class ImageUpload(ImageUploadRequest):
    """The body as it is read: the image may also be a file."""

    image: str | None = None  # type: ignore[assignment]  # wider than the document says, on purpose


@router.get("/models", responses=errors(401, 503), summary="What this server can do")
async def models(engine: EngineDep, settings: SettingsDep, caller: CallerDep) -> ModelList:
    """The one model that is served, in OpenAI's list shape, with what it can do and what a request may hold."""
    return ModelList(data=[card(engine.require_info(), settings)])


@router.get("/models/{model_id:path}", responses=errors(401, 404, 422, 503), summary="One model")
async def model(model_id: str, context: AskerDep, settings: SettingsDep) -> ModelCard:
    """The entry of one model in the list."""
    return card(context.model(model_id), settings)


def card(info: ModelInfo, settings: Settings) -> ModelCard:
    """The wire form of a model's description."""
    limits = ModelLimits(
        questions=settings.questions,
        question_characters=settings.question_characters,
        question_tokens=info.max_tokens,
        image_bytes=settings.image_bytes,
        image_pixels=settings.image_pixels,
        image_side=settings.image_side,
        images=info.images if info.images > 1 else None,
    )
    return wire.model_card(info, limits, _STARTED)
