"""`AsyncClient`: what `crosslook.client.Client` does, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

from crosslook.client import ITEM_ERRORS, Progress, Question, Texts, make_core, server_url
from crosslook.core import AnswerOptions, Operation, Read, Send, chosen
from crosslook.images import ImageLike, read_image
from crosslook.results import Answer, Caption, Health, Match
from crosslook.retry import RetryPolicy
from crosslook.transport import AsyncHTTPClient, AsyncTransport
from crosslook.types import ImageRef, MapChoice, MapKind, ModelCard

T = TypeVar("T")


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
        self._core = make_core(api_key, retries, timeout)
        self._transport = AsyncTransport(server_url(url), timeout, http_client)

    @overload
    async def answer(self, image: ImageLike, question: str, **options: Unpack[AnswerOptions]) -> Answer: ...
    @overload
    async def answer(self, image: ImageLike, question: Texts, **options: Unpack[AnswerOptions]) -> list[Answer]: ...
    async def answer(
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
        """See `Client.answer`."""
        options = chosen(
            top_k=top_k, candidates=candidates, language=language, maps=maps, map_kind=map_kind, layers=layers,
            heads=heads, model=model, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed,
            stop=stop,
        )  # fmt: skip
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
                except ITEM_ERRORS as error:
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

    async def caption(
        self,
        image: ImageLike,
        prompt: str = "",
        *,
        maps: MapChoice | None = None,
        map_kind: MapKind | None = None,
        layers: Sequence[int] | None = None,
        model: str | None = None,
    ) -> Caption:
        """See `Client.caption`."""
        options = chosen(maps=maps, map_kind=map_kind, layers=layers, model=model)
        return await self._run(self._core.caption(image, prompt, options))

    async def match(
        self,
        image: ImageLike,
        texts: Texts,
        *,
        maps: MapChoice | None = None,
        map_kind: MapKind | None = None,
        layers: Sequence[int] | None = None,
        model: str | None = None,
    ) -> list[Match]:
        """See `Client.match`."""
        options = chosen(maps=maps, map_kind=map_kind, layers=layers, model=model)
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
