"""The stand-in model, able to caption and match too. A caption is the prompt and the brightness of the image; the score
of a text to match is its share of the request's letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model.interface import Item, ItemError, Map, MapInfo, Output, Ranked, Task, TextOutput, Token, Word
from tests.fakes.model import Encoded, StandIn


class Speaker(StandIn):
    """Answers like the stand-in, and captions and matches."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.info = replace(self.info, tasks=("answer", "caption", "match"))

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        """One output a text."""
        if task == "answer":
            return super().run(task, items)
        return [self._caption(item) if task == "caption" else self._match(item) for item in items]

    def _maps(self, item: Item, text: str) -> dict[str, Any]:
        if item.maps is None:
            return {"tokens": (), "words": (), "looked": None}
        assert isinstance(item.image, Encoded)
        weights = item.image.brightness + 1.0
        looked = Map((0.75 * weights / weights.sum()).astype(np.float32), 0.25)
        tokens = (Token("[S]", None, True, looked), Token(text, (0, len(text)), False, looked))
        return {"tokens": tokens, "words": (Word(text, (0, len(text)), (1,)),), "looked": looked}

    def _caption(self, item: Item) -> Output:
        assert isinstance(item.image, Encoded)
        outputs = []
        for prompt in item.texts:
            caption = f"{prompt} {item.image.brightness.mean():.0f}".strip()
            made = self._maps(item, caption)
            outputs.append(
                TextOutput(
                    (Ranked(caption, 0.5),),
                    "sequence",
                    None,
                    answer_map=made["looked"],
                    answer_tokens=made["tokens"],
                    answer_words=made["words"],
                )
            )
        return Output(tuple(outputs), None if item.maps is None else MapInfo("raw", (0, 1)))

    def _match(self, item: Item) -> Output | ItemError:
        outputs = []
        total = sum(map(len, item.texts))
        for index, text in enumerate(item.texts):
            if "xyzzy" in text:
                return ItemError("question_not_understood", "Unknown words.", index)
            made = self._maps(item, text)
            ranking = (Ranked(text, len(text) / total),)
            fit = 0.125 if "fit" in text else None
            outputs.append(
                TextOutput(ranking, "candidates", None, made["tokens"], made["words"], made["looked"], fit=fit)
            )
        return Output(tuple(outputs), None if item.maps is None else MapInfo("raw", (0, 1)))


def load(**options: Any) -> Speaker:
    """The loader to name in ``create_app(settings, loader=...)``."""
    return Speaker(**options)


LOADER = "tests.fakes.speaker:load"
