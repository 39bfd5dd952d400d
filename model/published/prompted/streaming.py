"""Answers of `Prompted` families token by token: items come and go between two tokens.

Texts that come together, with prompts of one length about images of one kind, are read and written in one batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from model.family import TokenizedText
from model.interface import Item, ItemError, MapInfo, MapRequest, Output, Task, TextOutput, Written
from model.published.generation.batch import Batch, Row
from model.published.prompted.prompts import Asked, Found

Results = dict[int, Written | ItemError | Exception]


class WritesTexts(Protocol):
    """What is needed of a model: its checks (`model.family.Family`), its prompts, and what comes of them; see
    `model.published.prompted.family.Prompted`."""

    def _check(self, task: Task, item: Item) -> list[TokenizedText] | ItemError: ...

    def _resolve(self, maps: MapRequest | None) -> MapRequest | None: ...

    def asked(self, task: Task, item: Item) -> list[Asked]:
        """An item's texts with their prompts."""

    def start(self, rows: Sequence[Asked]) -> tuple[list[Row], Batch]:
        """Prompts of one length read, and the first token of each written."""

    def written(self, row: Row) -> Found:
        """What a finished row wrote."""

    def rank(self, row: Asked) -> Found:
        """Its candidates, ranked."""

    def outputs(
        self, task: Task, rows: Sequence[Asked], found: Sequence[Found], maps: MapRequest | None
    ) -> list[TextOutput]:
        """What came of texts that are answered, with their maps."""

    def map_info(self, maps: MapRequest | None) -> MapInfo | None:
        """How maps are made."""


@dataclass(eq=False, slots=True)
class _Member:
    """One item under way. ``rows`` are its texts' (none where candidates are ranked); ``told`` is how many tokens of
    each were reported."""

    key: int
    task: Task
    maps: MapRequest | None
    asked: list[Asked]
    rows: dict[int, Row] = field(default_factory=dict)
    told: dict[int, int] = field(default_factory=dict)


class PromptedWriting:
    """A `model.interface.Writing`."""

    def __init__(self, model: WritesTexts) -> None:
        self._model = model
        self._members: dict[int, _Member] = {}
        self._batches: list[Batch] = []

    @torch.no_grad()
    def advance(self, join: Sequence[tuple[int, Task, Item]], leave: Sequence[int]) -> Results:
        """One step; see `model.interface.Writing.advance`. An item on which the model fails gets the exception; where
        it fails on a batch, all that are in it do."""
        for key in leave:
            self._forget(key)
        failed: Results = {}
        for batch in list(self._batches):
            try:
                batch.step()
            except Exception as error:
                self._batches.remove(batch)
                hit = [key for key, one in self._members.items() if any(row in batch.rows for row in one.rows.values())]
                failed.update(dict.fromkeys(hit, error))
        failed.update(self._join(join))
        found: Results = {}
        for key, member in self._members.items():
            try:
                found[key] = failed.get(key) or self._report(member)
            except Exception as error:
                found[key] = error
        for key, one in found.items():
            if not isinstance(one, Written) or one.output is not None:
                self._forget(key)
        self._batches = [batch for batch in self._batches if batch.rows]
        return failed | found

    def _join(self, join: Sequence[tuple[int, Task, Item]]) -> Results:
        """Read the prompts of new items; what failed."""
        failed: Results = {}
        together: dict[Hashable, list[tuple[_Member, int]]] = {}
        for key, task, item in join:
            try:
                checked = self._model._check(task, item)
                if isinstance(checked, ItemError):
                    failed[key] = checked
                    continue
                member = _Member(key, task, self._model._resolve(item.maps), self._model.asked(task, item))
                self._members[key] = member
                for index, one in enumerate(member.asked if item.candidates is None else ()):
                    kind = (len(one.prompt.ids), item.image.batch_key)
                    together.setdefault(kind, []).append((member, index))
            except Exception as error:
                failed[key] = error
        for texts in together.values():
            failed.update(self._start(texts))
        return failed

    def _start(self, texts: Sequence[tuple[_Member, int]]) -> Results:
        """Read these texts' prompts in one pass; where that fails, item by item. What failed."""
        owners = list(dict.fromkeys(member.key for member, _ in texts))
        try:
            rows, batch = self._model.start([member.asked[index] for member, index in texts])
        except Exception as error:
            if len(owners) == 1:
                return {owners[0]: error}
            parts = [self._start([one for one in texts if one[0].key == owner]) for owner in owners]
            return {key: one for part in parts for key, one in part.items()}
        for (member, index), row in zip(texts, rows, strict=True):
            member.rows[index] = row
        self._batches.append(batch)
        return {}

    def _report(self, member: _Member) -> Written:
        """What is new of one item."""
        progress = []
        for index, row in sorted(member.rows.items()):
            new = row.news(index, member.told.get(index, 0))
            progress += [] if new is None else [new]
            member.told[index] = len(row.choices)
        if any(row.finish is None for row in member.rows.values()):
            return Written(tuple(progress))
        model, rows = self._model, [row for _, row in sorted(member.rows.items())]
        found = [model.written(row) for row in rows] or [model.rank(one) for one in member.asked]
        texts = model.outputs(member.task, member.asked, found, member.maps)
        return Written(tuple(progress), Output(tuple(texts), model.map_info(member.maps)))

    def _forget(self, key: int) -> None:
        member = self._members.pop(key, None)
        rows = [] if member is None else list(member.rows.values())
        for batch in self._batches:
            batch.leave([row for row in batch.rows if row in rows])
