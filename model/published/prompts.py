"""What `model.published.prompted.Prompted` families are fed for a text, and what comes of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from model.family import Span
from model.interface import Item, Ranked, TokenChoice


class Prompt(NamedTuple):
    """What is fed for a text: its tokens, those around it included. ``spans`` are places in the text as it was sent,
    None for what surrounds it; ``whole`` is the prompt as it reads."""

    ids: list[int]
    texts: list[str]
    spans: list[Span | None]
    whole: str


class Forced(NamedTuple):
    """A pass over prompts ``[rows, n]`` and given answers ``[rows, m]``."""

    logits: Tensor
    """``[rows, 1 + m, vocabulary]``: of each of the answer's tokens, and of what comes after them."""
    prompt_maps: Tensor | None = None
    """``[rows, n, keys]``: where each token of the prompt looked."""
    answer_maps: Tensor | None = None
    """``[rows, 1 + m, keys]``: of the token before the answer, and of each of the answer's."""


class Asked(NamedTuple):
    """One text of an item, and its prompt."""

    item: Item
    text: str
    prompt: Prompt


class Found(NamedTuple):
    """A ranking, and its best answer as it was written, or as it would be: tokens, and where they stand in it."""

    ranking: tuple[Ranked, ...]
    ids: tuple[int, ...]
    spans: list[Span | None]
    rest: float | None = None
    candidates: bool = False
    choices: tuple[TokenChoice, ...] = ()
    finish: Literal["stop", "length"] = "stop"
