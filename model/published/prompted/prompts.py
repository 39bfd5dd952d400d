"""What `model.published.prompted.family.Prompted` families are fed for a text, and what comes of it.

`templated` makes the prompt: the text in its place in the family's template.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor

from model.family import Span
from model.interface import Item, Ranked, TokenChoice
from model.published.tokenizer import Tokenizer


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


def templated(tokenizer: Tokenizer, template: str, text: str) -> Prompt:
    """``text`` in its place (``{}``) in ``template``, as tokens with the tokenizer's own special ones around.

    Spans are places in ``text``; a token that stands outside has none. What the template spells like a special token is
    one; what the text spells so is text.
    """
    before, _, after = template.partition("{}")
    backend = tokenizer.hub._tokenizer
    special = [token.content for token in tokenizer.hub.added_tokens_decoder.values() if token.special]
    in_template = any(token in before + after for token in special)
    if in_template and any(token in text for token in special):
        return _in_parts(tokenizer, before, text, after)
    backend.encode_special_tokens = not in_template
    try:
        encoding = backend.encode(before + text + after, add_special_tokens=not in_template)
    finally:
        backend.encode_special_tokens = True
    end = len(before) + len(text)
    spans: list[Span | None] = [
        (max(a, len(before)) - len(before), min(b, end) - len(before)) if max(a, len(before)) < min(b, end) else None
        for a, b in encoding.offsets
    ]
    whole = before + text + after
    return Prompt(encoding.ids, _names(encoding, whole), spans, whole)


def _in_parts(tokenizer: Tokenizer, before: str, text: str, after: str) -> Prompt:
    """The template's two parts and the text, each by itself: special tokens count in the first two alone."""
    backend, found = tokenizer.hub._tokenizer, Prompt([], [], [], before + text + after)
    for part, own in ((before, False), (text, True), (after, False)):
        backend.encode_special_tokens = own
        try:
            encoding = backend.encode(part, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = True
        found.ids.extend(encoding.ids)
        found.texts.extend(_names(encoding, part))
        found.spans.extend(encoding.offsets if own else [None] * len(encoding.ids))
    return found


def _names(encoding: Any, text: str) -> list[str]:
    """Each token as it stands in the text; the tokenizer's own name for one that does not."""
    return [text[a:b] or name for (a, b), name in zip(encoding.offsets, encoding.tokens, strict=True)]
