"""Answers token by token: items join a batch and leave it between two tokens, and those of one image share its
prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from model.family import TokenizedText
from model.interface import Item, ItemError, MapRequest, Output, Task, TextOutput, Written
from model.published.generation.batch import Batch, Row
from model.published.map_passes import map_info


class HasRow(Protocol):
    """A text that is being answered."""

    @property
    def row(self) -> Row:
        """What joins the batch."""


Asked = TypeVar("Asked", bound=HasRow)


class WritesRows(Protocol[Asked]):
    """What is needed of a model: its checks (`model.family.Family`), rows of its own, and what comes of them."""

    def _check(self, task: Task, item: Item) -> list[TokenizedText] | ItemError: ...

    def _resolve(self, maps: MapRequest | None) -> MapRequest | None: ...

    def batch(self) -> Batch:
        """A new batch for its rows."""

    def begin(self, item: Item, text: str, tokens: TokenizedText, maps: MapRequest | None) -> Asked:
        """A text made ready to join."""

    def finish(self, asked: Sequence[Asked]) -> list[TextOutput]:
        """What came of texts whose rows are finished."""


@dataclass(eq=False, slots=True)
class _Member(Generic[Asked]):
    """One item under way; ``told`` is how many tokens of each text were reported."""

    asked: list[Asked]
    maps: MapRequest | None
    told: list[int]

    @property
    def finished(self) -> bool:
        return all(one.row.finish is not None for one in self.asked)


class RowWriting(Generic[Asked]):
    """A `model.interface.Writing` over one `model.published.generation.batch.Batch`."""

    def __init__(self, model: WritesRows[Asked]) -> None:
        self._model = model
        self._batch = model.batch()
        self._members: dict[int, _Member[Asked]] = {}

    @torch.no_grad()
    def advance(
        self, join: Sequence[tuple[int, Task, Item]], leave: Sequence[int]
    ) -> dict[int, Written | ItemError | Exception]:
        """One step; see `model.interface.Writing.advance`. An item on which the model fails gets the exception; where
        it fails on those that are under way, all of them do."""
        self._forget(leave)
        found: dict[int, Written | ItemError | Exception] = {}
        try:
            self._batch.step()
        except Exception as error:
            found.update(dict.fromkeys(self._members, error))
            self._members.clear()
            self._batch = self._model.batch()
        found.update(self._join(join))
        for key in list(self._members):
            try:
                found[key] = self._report(key)
            except Exception as error:
                found[key] = error
                self._forget([key])
        return found

    def _join(self, join: Sequence[tuple[int, Task, Item]]) -> dict[int, ItemError | Exception]:
        """Read the prompts of new items, all in one pass; where that fails, item by item."""
        failed: dict[int, ItemError | Exception] = {}
        ready: list[tuple[int, _Member[Asked]]] = []
        for key, task, item in join:
            try:
                checked = self._model._check(task, item)
                if isinstance(checked, ItemError):
                    failed[key] = checked
                    continue
                maps = self._model._resolve(item.maps)
                texts = zip(item.texts, checked, strict=True)
                asked = [self._model.begin(item, text, tokens, maps) for text, tokens in texts]
                ready.append((key, _Member(asked, maps, [0] * len(asked))))
            except Exception as error:
                failed[key] = error
        try:
            if ready:
                self._batch.join([one.row for _, member in ready for one in member.asked])
            self._members.update(ready)
        except Exception as error:
            if len(ready) == 1:
                return {**failed, ready[0][0]: error}
            for key, task, item in join:
                if key not in failed:
                    failed.update(self._join([(key, task, item)]))
        return failed

    def _report(self, key: int) -> Written:
        """What is new of one item."""
        member = self._members[key]
        progress = []
        for index, one in enumerate(member.asked):
            new = one.row.news(index, member.told[index])
            progress += [] if new is None else [new]
            member.told[index] = len(one.row.choices)
        if not member.finished:
            return Written(tuple(progress))
        texts = self._model.finish(member.asked)
        del self._members[key]
        return Written(tuple(progress), Output(tuple(texts), None if member.maps is None else map_info(member.maps)))

    def _forget(self, keys: Sequence[int]) -> None:
        gone = [self._members.pop(key) for key in keys if key in self._members]
        if gone:
            self._batch.leave([one.row for member in gone for one in member.asked])
