"""`Client`: the operations of `crosslook.core`, blocking; `crosslook.async_client` has them for asyncio."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

from crosslook.core import AnswerOptions, Core, Operation, Read, Send, chosen
from crosslook.errors import CrosslookError
from crosslook.images import ImageLike, read_image
from crosslook.results import Answer, Caption, Health, Match
from crosslook.retry import RetryPolicy
from crosslook.transport import HTTPClient, Transport
from crosslook.types import ImageRef, MapChoice, MapKind, ModelCard

T = TypeVar("T")
Texts = list[str] | tuple[str, ...]
Question = tuple[ImageLike, str | Texts]
Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8080"

LONGEST_TIMEOUT = 1_000_000
"""Seconds: beyond, clocks of some systems overflow."""

ITEM_ERRORS = (CrosslookError, OSError, TypeError, ValueError)  # what one item of `ask_many` may be at fault for


def make_core(api_key: str | None, retries: int | RetryPolicy, timeout: float) -> Core:
    """What both clients are made with. Raises ValueError for a timeout that is none."""
    if not timeout > 0:  # so said that it holds for NaN too
        raise ValueError("timeout must be more than 0 seconds")
    if timeout > LONGEST_TIMEOUT:
        raise ValueError(f"timeout must be at most {LONGEST_TIMEOUT} seconds")
    policy = RetryPolicy(retries) if isinstance(retries, int) else retries
    return Core(api_key=api_key or os.environ.get("CROSSLOOK_API_KEY"), retry=policy, timeout=timeout)


def server_url(url: str | None) -> str:
    """The server's address: as given, or the environment's, or the default."""
    return url or os.environ.get("CROSSLOOK_URL") or DEFAULT_URL


class Client:
    """A crosslook server. Safe to share between threads; close it, or use it in a ``with`` block.

    Args:
        url: where the server is; the environment's ``CROSSLOOK_URL``, else ``http://127.0.0.1:8080``.
        api_key: sent as a bearer token; the environment's ``CROSSLOOK_API_KEY``.
        timeout: seconds that one try may take from its start to the last byte; the server is told, and stops its work
            then. (With a blocking ``http_client`` of your own: the wait for each read and write, and the body.)
        retries: how often a request is repeated, or a `RetryPolicy` of your own, which also says how patiently.
        http_client: an `httpx.Client` to use (proxies, certificates, tests); it stays yours to close.

    Every method raises the exceptions of `crosslook.errors`; what it says of an image is in `ImageLike`.

    Raises: ValueError for a URL that is none, a key that no header can carry and a timeout of 0 or of more than
        `LONGEST_TIMEOUT`; BadEnvironment for a proxy or certificates of the environment that cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int | RetryPolicy = 2,
        http_client: HTTPClient | None = None,
    ) -> None:
        self._core = make_core(api_key, retries, timeout)
        self._transport = Transport(server_url(url), timeout, http_client)

    @overload
    def answer(self, image: ImageLike, question: str, **options: Unpack[AnswerOptions]) -> Answer: ...
    @overload
    def answer(self, image: ImageLike, question: Texts, **options: Unpack[AnswerOptions]) -> list[Answer]: ...
    def answer(
        self,
        image: ImageLike,
        question: str | Texts,
        *,
        top_k: int | None = None,
        candidates: Sequence[str] | None = None,
        language: str | None = None,
        maps: MapChoice | None = None,
        map_kind: MapKind | None = None,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        model: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> Answer | list[Answer]:
        """Ask one question about an image, or several in one request (then a list, in their order).

        An image asked about before is not sent again: its id is, and its bytes only when the server has dropped it.

        Args:
            top_k: how many answers the ranking holds (5).
            candidates: answer with one of these; the scores are over them alone.
            language: in which to answer (``en``, ``zh``); without it the question's own.
            maps: ``float`` (the default), ``u8`` (a quarter of the bytes, 8 bits a cell) or ``none`` (faster).
            map_kind: ``raw``, ``gradient``, ``rollout`` or ``similarity``; without it the model's own.
            layers: average the maps of these layers; without it the model's own.
            heads: average raw maps of these heads, of models whose card says how many ``heads`` they have; without it
                all.
            model: refused with ModelNotFound when the server serves another.
            max_new_tokens, temperature, top_p, seed, stop: for models that write. The answer ends after so many tokens;
                0 takes the likeliest token, more draws; from the likeliest of this probability; the same seed draws
                the same; the answer ends before any of these texts.
        """
        options = chosen(
            top_k=top_k, candidates=candidates, language=language, maps=maps, map_kind=map_kind, layers=layers,
            heads=heads, model=model, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed,
            stop=stop,
        )  # fmt: skip
        answers = self._run(self._core.answer(image, question, options))
        return answers[0] if isinstance(question, str) else answers

    @overload
    def ask_many(
        self,
        items: Iterable[Question],
        *,
        concurrency: int = ...,
        progress: Progress | None = ...,
        errors: Literal["raise"] = ...,
        **options: Unpack[AnswerOptions],
    ) -> list[list[Answer]]: ...
    @overload
    def ask_many(
        self,
        items: Iterable[Question],
        *,
        concurrency: int = ...,
        progress: Progress | None = ...,
        errors: Literal["return"],
        **options: Unpack[AnswerOptions],
    ) -> list[list[Answer] | Exception]: ...
    def ask_many(
        self,
        items: Iterable[Question],
        *,
        concurrency: int = 4,
        progress: Progress | None = None,
        errors: Literal["raise", "return"] = "raise",
        **options: Unpack[AnswerOptions],
    ) -> list[list[Answer]] | list[list[Answer] | Exception]:
        """Ask about many images: each item is an image and a question, or several; the results are in their order.

        Args:
            concurrency: how many requests are under way at once.
            progress: called with (done, total) after each item.
            errors: ``raise`` the first and drop the rest, or ``return`` each (CrosslookError, OSError, TypeError or
                ValueError) in its item's place.

        Raises:
            ValueError: ``concurrency`` is less than 1.
        """
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        todo = list(items)

        def one(item: Question) -> list[Answer] | Exception:
            try:
                return self._run(self._core.answer(*item, options))
            except ITEM_ERRORS as error:
                if errors == "raise":
                    raise
                return error

        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            futures = [pool.submit(one, item) for item in todo]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    if progress:
                        progress(done, len(todo))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def caption(
        self,
        image: ImageLike,
        prompt: str = "",
        *,
        maps: MapChoice | None = None,
        map_kind: MapKind | None = None,
        layers: Sequence[int] | None = None,
        model: str | None = None,
    ) -> Caption:
        """Describe an image, from a given beginning if there is one. Options: see `answer`.

        Raises TaskNotSupported on models that cannot.
        """
        options = chosen(maps=maps, map_kind=map_kind, layers=layers, model=model)
        return self._run(self._core.caption(image, prompt, options))

    def match(
        self,
        image: ImageLike,
        texts: Texts,
        *,
        maps: MapChoice | None = None,
        map_kind: MapKind | None = None,
        layers: Sequence[int] | None = None,
        model: str | None = None,
    ) -> list[Match]:
        """How well each text fits an image, against the others. Options: see `answer`.

        Raises TaskNotSupported on models that cannot.
        """
        options = chosen(maps=maps, map_kind=map_kind, layers=layers, model=model)
        return self._run(self._core.match(image, texts, options))

    def upload(self, image: ImageLike) -> ImageRef:
        """Leave an image with the server. What comes back is an image for later calls."""
        return self._run(self._core.upload(image))

    def models(self) -> list[ModelCard]:
        """What the server serves."""
        return self._run(self._core.models())

    def health(self) -> Health:
        """Whether the server is ready to answer. Not repeated on failure."""
        return self._run(self._core.health())

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Operation[T]) -> T:
        result: object = None
        failure: Exception | None = None
        while True:
            try:
                step = operation.throw(failure) if failure else operation.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            result = failure = None
            try:
                if isinstance(step, Send):
                    result = self._transport.send(step)
                elif isinstance(step, Read):
                    result = read_image(step.image)
                else:
                    time.sleep(step.seconds)
            except Exception as error:
                failure = error
