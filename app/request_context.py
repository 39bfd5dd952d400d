"""What every dialect does between its parsing and its formatting: the caller, the image, the limits, the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from app.engine.engine import Answered, Engine, ImageSource, Uploaded
from app.engine.messages import cost_of
from app.errors import RequestError, image_at, item_error
from app.intake import bodies, decode, images, inline
from app.intake.fetch import Fetcher
from app.limits import Limiter, time_allowed
from app.metrics import Metrics
from app.offload import by_size
from app.settings import Settings
from crosslook.types import GenerationOptions, MapOptions
from crosslook.types.requests import MOST_NEW_TOKENS
from model.interface import Generation, ItemError, MapRequest, ModelInfo, Progress, Task

T = TypeVar("T")


def image_limits(settings: Settings) -> decode.ImageLimits:
    """The part of the settings that concerns images."""
    return decode.ImageLimits(settings.image_bytes, settings.image_pixels, settings.image_side, settings.image_min_side)


class RequestContext:
    """One request's way to the model. Routes get it as a dependency; ``caller`` is the name of its API key."""

    def __init__(
        self,
        request: Request,
        *,
        caller: str,
        engine: Engine,
        settings: Settings,
        limiter: Limiter,
        fetcher: Fetcher | None,
        metrics: Metrics,
    ) -> None:
        self.request = request
        self.caller = caller
        self.engine = engine
        self.settings = settings
        self.limits = image_limits(settings)
        self._limiter = limiter
        self._fetcher = fetcher
        self._metrics = metrics
        self._paid = 0  # of the caller's rate, for a fetch
        self._seconds = time_allowed(request.headers, settings.request_seconds)
        self._deadline = getattr(request.state, "began", time.monotonic()) + self._seconds

    def model(self, asked: str | None, task: Task | None = None) -> ModelInfo:
        """The model that is served, if it is the one asked for and can do the task.

        Raises: `RequestError` ``not_ready``, ``shutting_down``, ``model_not_found``, ``task_not_supported``.
        """
        info = self.engine.require_info()
        if asked is not None and asked != info.id:
            message = f"This server serves {info.id}, not {asked[:200]}."
            raise RequestError("model_not_found", message, param="model", detail={"served": [info.id]})
        if task is not None and task not in info.tasks:
            message = f"{info.id} cannot {task}; it can {', '.join(info.tasks)}."
            raise RequestError("task_not_supported", message, detail={"tasks": list(info.tasks)})
        return info

    async def data(self, *, file: bytes | None = None, text: str | None = None, param: str = "image") -> bytes:
        """The bytes of an image that is sent by value: a file or a text (base64, data URI, URL).

        Raises: `RequestError` ``invalid_request`` when there is none or both, and what
        `app.intake.decode` and `app.intake.fetch` raise.
        """
        if file is not None and text is None:
            return file
        if file is not None or text is None:
            raise RequestError("invalid_request", "Give one image.", param=param)
        if inline.is_url(text):
            return await self._fetch(text.strip(), param)
        return await by_size(len(text), inline.from_text, text, self.limits, param=param)

    async def image(
        self, *, file: bytes | None = None, text: str | None = None, image_id: str | None = None, param: str = "image"
    ) -> ImageSource:
        """The one image among the fields of a request, by value or by the id that an earlier response gave it.

        Raises: `RequestError` ``invalid_request`` for an image with an id beside it; as `data`.
        """
        if image_id is None:
            return await self.by_value(await self.data(file=file, text=text, param=param), param=param)
        if file is not None or text is not None:
            raise RequestError("invalid_request", "Give the image or its id, not both.", param=param)
        return ImageSource(image_id=image_id, scope=self.caller)

    @property
    def most_images(self) -> int:
        """How many images a question may be about."""
        info = self.engine.info
        return 1 if info is None else info.images

    async def images(self, texts: Sequence[str], places: Sequence[str], *, param: str = "images") -> ImageSource:
        """Several images, each by value, that questions are about together; ``places`` are the fields that each came
        in, ``param`` that of all.

        Raises: `RequestError` ``invalid_request`` for more than the model takes; as `data`.
        """
        most = self.most_images
        if len(texts) > most:
            takes = "one image" if most == 1 else f"at most {most} images"
            message = f"The model takes {takes} in a question; there are {len(texts)}."
            raise RequestError("invalid_request", message, param=param, detail={"images": len(texts), "max": most})
        sources = [
            await self.by_value(await self.data(text=text, param=place), param=place)
            for text, place in zip(texts, places, strict=True)
        ]
        if len(sources) == 1:
            return sources[0]
        await self._limiter.spend(self.caller, len(sources) - 1)  # each costs what one does
        return images.together(sources, scope=self.caller, param=param)

    async def by_value(self, data: bytes, *, param: str = "image") -> ImageSource:
        """The engine's source for the bytes of an image."""
        return await by_size(len(data), images.from_bytes, data, self.limits, scope=self.caller, param=param)

    async def _fetch(self, url: str, param: str) -> bytes:
        if self._fetcher is None:
            raise RequestError("url_not_allowed", "This server does not fetch image URLs.", param=param)
        # A fetch costs the server and others: it is within the caller's rate and the queue's bounds like any work.
        await self._limiter.spend(self.caller, 1)
        self._paid = 1
        with self.engine.admission.hold(images=1):
            return await self.in_time(self._fetcher.fetch(url, param=param, count=self.request.state.hold_bytes))

    def check_texts(self, texts: Sequence[str], *, field: str = "questions", may_be_empty: bool = False) -> None:
        """Raise `RequestError` for too many, empty or over-long texts, before anything costs."""
        most, longest = self.settings.questions, self.settings.question_characters
        if len(texts) > most:
            message = f"At most {most} {field} a request; this one has {len(texts)}."
            raise RequestError("too_many_questions", message, param=field, detail={"max": most})
        for index, text in enumerate(texts):
            param = f"{field}[{index}]"
            if not text.strip() and not may_be_empty:
                raise RequestError("question_empty", f"{param} has no text.", param=param)
            if len(text) > longest:
                detail: dict[str, object] = {"max_characters": longest, "characters": len(text)}
                message = f"{param} has more than {longest} characters."
                raise RequestError("question_too_long", message, param=param, detail=detail)

    def check_distinct(self, texts: Sequence[str], *, field: str) -> None:
        """Raise `RequestError` for texts to be compared with each other of which two are the same: each would get a
        part of the score."""
        seen: dict[str, int] = {}
        for index, text in enumerate(texts):
            first = seen.setdefault(_plain(text), index)
            if first != index:
                param = f"{field}[{index}]"
                raise RequestError("invalid_request", f"{param} is the same text as {field}[{first}].", param=param)

    async def run(
        self,
        task: Task,
        image: ImageSource,
        texts: Sequence[str],
        *,
        field: str = "questions",
        candidates: Sequence[str] | None = None,
        top_k: int = 5,
        language: str | None = None,
        maps: MapRequest | None = None,
        generation: Generation | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Answered:
        """Run texts against an image, within the caller's rate and the request's deadline, for as long as the client
        stays. ``field`` is the name of the list that errors of single texts refer to. A model that writes token by
        token tells ``on_progress`` of each step.

        Raises: `RequestError`, `app.intake.bodies.ClientGone`.
        """
        await self._spend(cost_of(texts, candidates))
        work = self.engine.run(
            task,
            image,
            texts,
            candidates=candidates,
            top_k=top_k,
            language=language,
            maps=maps,
            generation=generation,
            on_progress=on_progress,
        )
        try:
            with image_at(image.param):
                return await self.in_time(work)
        except ItemError as error:
            raise item_error(error, field) from None

    async def encode(self, image: ImageSource) -> Uploaded:
        """Encode an image, within the caller's rate and the request's deadline, for as long as the client stays.

        Raises: `RequestError`, `app.intake.bodies.ClientGone`.
        """
        await self._spend(1)
        with image_at(image.param):
            return await self.in_time(self.engine.encode(image))

    async def _spend(self, cost: int) -> None:
        """Take from the caller's rate what is not paid yet."""
        if cost > self._paid:
            await self._limiter.spend(self.caller, cost - self._paid)
        self._paid = 0

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` within the request's deadline, for as long as the client stays.

        Raises: `RequestError` ``deadline_exceeded``, `app.intake.bodies.ClientGone`, and what ``work`` raises.
        """
        left = self._deadline - time.monotonic()
        try:
            if left <= 0:
                work.close()
                raise TimeoutError
            async with asyncio.timeout(left):
                return await bodies.unless_gone(self.request, work)
        except TimeoutError:
            raise RequestError("deadline_exceeded", f"Not finished within {self._seconds:.3g} s.") from None
        except bodies.ClientGone:
            self._metrics.abandoned.inc()
            raise

    def headers(self, answered: Uploaded) -> dict[str, str]:
        """Where the time went, and whether the image was known: headers, so that bodies stay pure. Call it last."""
        self._metrics.answered(answered.stages, answered.cache)
        self.request.state.stages = answered.stages
        return {"Server-Timing": answered.stages.server_timing(), "X-Cache": answered.cache}


def check_language(language: str | None, info: ModelInfo) -> None:
    """Raise `RequestError` for a language in which the model cannot answer."""
    if language is not None and language not in info.answer_languages:
        message = f"{info.id} answers in {', '.join(info.answer_languages)}, not in {language}."
        raise RequestError("invalid_request", message, param="language", detail={"languages": [*info.answer_languages]})


def distinct(candidates: Sequence[str]) -> tuple[str, ...]:
    """Candidates without those that differ from an earlier one only in case or spaces: they would share its score."""
    first: dict[str, str] = {}
    for candidate in candidates:
        first.setdefault(_plain(candidate), candidate)
    return tuple(first.values())


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def map_request(options: MapOptions, info: ModelInfo) -> MapRequest | None:
    """The maps to make; None for none.

    Raises: `RequestError` ``map_not_supported``.
    """
    if options.maps == "none":
        return None
    kind = options.map_kind or info.default_map_kind
    if kind is None or kind not in info.map_kinds:
        message = f"{info.id} makes maps of kind {', '.join(info.map_kinds) or 'none'}."
        raise RequestError("map_not_supported", message, param="map_kind", detail={"kinds": list(info.map_kinds)})
    if options.layers is not None and not set(options.layers) <= set(info.layers):
        message = f"{info.id} has the layers {list(info.layers)}."
        raise RequestError("map_not_supported", message, param="layers", detail={"layers": list(info.layers)})
    if options.heads is not None and (kind != "raw" or not set(options.heads) <= set(range(info.heads))):
        message = (
            f"{info.id} makes raw maps of single heads of {info.heads}." if info.heads else "No single heads here."
        )
        raise RequestError("map_not_supported", message, param="heads", detail={"heads": info.heads})
    layers, heads = (None if n is None else tuple(sorted(set(n))) for n in (options.layers, options.heads))
    return MapRequest(kind, layers, heads)


def generation_of(
    options: GenerationOptions, info: ModelInfo, *, limit: int | None = None, top_logprobs: int = 0
) -> Generation | None:
    """How the answer is to be written; None for a model that does not write, which ignores such options. ``limit``: of
    tokens, where a dialect has another name for it."""
    if not info.generation:
        return None
    return Generation(
        max_new_tokens=options.max_new_tokens or (limit and min(limit, MOST_NEW_TOKENS)),
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        stop=None if options.stop is None else tuple(options.stop),
        top_logprobs=top_logprobs,
    )
