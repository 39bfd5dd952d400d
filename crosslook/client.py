"""`Client` and `AsyncClient`: the same operations, blocking and for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

from crosslook.core import AnswerOptions, Core, MapOptions, Operation, Read, Send
from crosslook.errors import CrosslookError
from crosslook.images import ImageLike, read_image
from crosslook.results import Answer, Caption, Health, Match
from crosslook.retry import RetryPolicy
from crosslook.transport import AsyncHTTPClient, AsyncTransport, HTTPClient, Transport
from crosslook.types import ImageRef, ModelCard

T = TypeVar("T")
Texts = list[str] | tuple[str, ...]
Question = tuple[ImageLike, str | Texts]
Progress = Callable[[int, int], None]

DEFAULT_URL = "http://127.0.0.1:8080"

LONGEST_TIMEOUT = 1_000_000
"""Seconds: beyond, clocks of some systems overflow."""

_ITEM_ERRORS = (CrosslookError, OSError, TypeError, ValueError)  # what one item of `ask_many` may be at fault for


def _core(api_key: str | None, retries: int | RetryPolicy, timeout: float) -> Core:
    if not timeout > 0:  # so said that it holds for NaN too
        raise ValueError("timeout must be more than 0 seconds")
    if timeout > LONGEST_TIMEOUT:
        raise ValueError(f"timeout must be at most {LONGEST_TIMEOUT} seconds")
    policy = RetryPolicy(retries) if isinstance(retries, int) else retries
    return Core(api_key=api_key or os.environ.get("CROSSLOOK_API_KEY"), retry=policy, timeout=timeout)


def _url(url: str | None) -> str:
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
        self._core = _core(api_key, retries, timeout)
        self._transport = Transport(_url(url), timeout, http_client)

    @overload
    def answer(self, image: ImageLike, question: str, **options: Unpack[AnswerOptions]) -> Answer: ...
    @overload
    def answer(self, image: ImageLike, question: Texts, **options: Unpack[AnswerOptions]) -> list[Answer]: ...
    def answer(
        self, image: ImageLike, question: str | Texts, **options: Unpack[AnswerOptions]
    ) -> Answer | list[Answer]:
        """Ask one question about an image, or several in one request (then a list, in their order).

        An image asked about before is not sent again: its id is, and its bytes only when the server has dropped it.
        """
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
            except _ITEM_ERRORS as error:
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

    def caption(self, image: ImageLike, prompt: str = "", **options: Unpack[MapOptions]) -> Caption:
        """Describe an image, from a given beginning if there is one. Raises TaskNotSupported on models that cannot."""
        return self._run(self._core.caption(image, prompt, options))

    def match(self, image: ImageLike, texts: Texts, **options: Unpack[MapOptions]) -> list[Match]:
        """How well each text fits an image, against the others. Raises TaskNotSupported on models that cannot."""
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


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited; ``async with`` closes it.

    It may be used in several event loops (several ``asyncio.run``), each of which gets connections of its own. An
    ``http_client`` of your own belongs to one loop.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int | RetryPolicy = 2,
        http_client: AsyncHTTPClient | None = None,
    ) -> None:
        self._core = _core(api_key, retries, timeout)
        self._transport = AsyncTransport(_url(url), timeout, http_client)

    @overload
    async def answer(self, image: ImageLike, question: str, **options: Unpack[AnswerOptions]) -> Answer: ...
    @overload
    async def answer(self, image: ImageLike, question: Texts, **options: Unpack[AnswerOptions]) -> list[Answer]: ...
    async def answer(
        self, image: ImageLike, question: str | Texts, **options: Unpack[AnswerOptions]
    ) -> Answer | list[Answer]:
        """See `Client.answer`."""
        answers = await self._run(self._core.answer(image, question, options))
        return answers[0] if isinstance(question, str) else answers

    @overload
    async def ask_many(
        self,
        items: Iterable[Question],
        *,
        concurrency: int = ...,
        progress: Progress | None = ...,
        errors: Literal["raise"] = ...,
        **options: Unpack[AnswerOptions],
    ) -> list[list[Answer]]: ...
    @overload
    async def ask_many(
        self,
        items: Iterable[Question],
        *,
        concurrency: int = ...,
        progress: Progress | None = ...,
        errors: Literal["return"],
        **options: Unpack[AnswerOptions],
    ) -> list[list[Answer] | Exception]: ...
    async def ask_many(
        self,
        items: Iterable[Question],
        *,
        concurrency: int = 4,
        progress: Progress | None = None,
        errors: Literal["raise", "return"] = "raise",
        **options: Unpack[AnswerOptions],
    ) -> list[list[Answer]] | list[list[Answer] | Exception]:
        """See `Client.ask_many`. Raises ValueError where ``concurrency`` is less than 1."""
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        todo = list(items)
        places = asyncio.Semaphore(concurrency)
        done = 0

        async def one(item: Question) -> list[Answer] | Exception:
            nonlocal done
            result: list[Answer] | Exception
            async with places:
                try:
                    result = await self._run(self._core.answer(*item, options))
                except _ITEM_ERRORS as error:
                    if errors == "raise":
                        raise
                    result = error
            done += 1
            if progress:
                progress(done, len(todo))
            return result

        tasks = [asyncio.create_task(one(item)) for item in todo]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def caption(self, image: ImageLike, prompt: str = "", **options: Unpack[MapOptions]) -> Caption:
        """See `Client.caption`."""
        return await self._run(self._core.caption(image, prompt, options))

    async def match(self, image: ImageLike, texts: Texts, **options: Unpack[MapOptions]) -> list[Match]:
        """See `Client.match`."""
        return await self._run(self._core.match(image, texts, options))

    async def upload(self, image: ImageLike) -> ImageRef:
        """See `Client.upload`."""
        return await self._run(self._core.upload(image))

    async def models(self) -> list[ModelCard]:
        """See `Client.models`."""
        return await self._run(self._core.models())

    async def health(self) -> Health:
        """See `Client.health`."""
        return await self._run(self._core.health())

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, operation: Operation[T]) -> T:
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
                    result = await self._transport.send(step)
                elif isinstance(step, Read):
                    result = await asyncio.to_thread(read_image, step.image)
                else:
                    await asyncio.sleep(step.seconds)
            except Exception as error:
                failure = error
