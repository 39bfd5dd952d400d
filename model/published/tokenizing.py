"""A checkpoint's own tokenizer, giving what maps need: where each token stands in the text as it was sent."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

Span = tuple[int, int]


class Encoded(NamedTuple):
    """One text as tokens. ``spans`` are half-open, in code points of the text; None for special tokens."""

    ids: list[int]
    texts: list[str]
    spans: list[Span | None]
    unknown_share: float


class Tokenizer:
    """Wraps a fast tokenizer of transformers (one with offsets)."""

    def __init__(self, tokenizer: Any) -> None:
        self.hub = tokenizer

    def __call__(self, text: str) -> Encoded:
        """Tokens of ``text`` between the tokenizer's own special ones; nothing is cut off."""
        encoding = self.hub._tokenizer.encode(text)
        special = encoding.special_tokens_mask
        spans: list[Span | None] = [None if s else o for s, o in zip(special, encoding.offsets, strict=True)]
        words = [i for i, span in zip(encoding.ids, spans, strict=True) if span is not None]
        unknown = self.hub.unk_token_id
        share = sum(i == unknown for i in words) / len(words) if words else 0.0
        return Encoded(encoding.ids, encoding.tokens, spans, share)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The tokens of these ids."""
        known = self.hub.convert_ids_to_tokens(list(ids))
        return [f"[{i}]" if token is None else token for i, token in zip(ids, known, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens."""
        text: str = self.hub.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def spans_in(self, text: str, ids: Sequence[int], start: int = 0) -> list[Span | None]:
        """Where generated tokens stand in the ``text`` that `decode` made of them; None for what left no trace.

        Each token is sought from where the last one ended (the first from ``start``): a word that comes twice is found
        twice.
        """
        spans: list[Span | None] = []
        position = start
        lowered = text.lower()
        for token_id in ids:
            piece = self.decode([token_id]).removeprefix("##").strip().lower()
            found = lowered.find(piece, position) if piece else -1
            if found < 0 or len(lowered) != len(text):
                spans.append(None)
                continue
            position = found + len(piece)
            spans.append((found, position))
        return spans


class SentencePieceTokenizer(Tokenizer):
    """Wraps a tokenizer without offsets that drops punctuation and case, as SigLIP's first one does."""

    def __call__(self, text: str) -> Encoded:
        """Tokens of ``text``, each sought where the last one ended in what is left of the text."""
        ids: list[int] = self.hub(text)["input_ids"]
        kept = [(part, i) for i, char in enumerate(text) if char not in string.punctuation for part in char.lower()]
        canonical = "".join(part for part, _ in kept)
        spans: list[Span | None] = []
        position = 0
        texts = self.texts(ids)
        for token in texts:
            piece = token.replace("\u2581", " ").strip()  # the mark that stands for a space
            found = canonical.find(piece, position) if piece else -1
            if found < 0:
                spans.append(None)
                continue
            position = found + len(piece)
            spans.append((kept[found][1], kept[position - 1][1] + 1))
        unknown = sum(i == self.hub.unk_token_id for i in ids)
        return Encoded(ids, texts, spans, unknown / max(1, len(ids) - 1))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder.

    Raises ValueError where there is none that can be used.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises what it likes: OSError, ValueError, KeyError, pyo3's own
        raise ValueError(f"the tokenizer of {folder} cannot be loaded: {error}") from error
    if tokenizer.is_fast:
        tokenizer._tokenizer.no_truncation()
        tokenizer._tokenizer.no_padding()
        return Tokenizer(tokenizer)
    if hasattr(tokenizer, "sp_model"):
        return SentencePieceTokenizer(tokenizer)
    raise ValueError(f"{folder} has no fast tokenizer (tokenizer.json), which maps need for their spans")


def pad(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Ids ``[rows, tokens]`` and their mask (True: a token); None where all rows are of one length."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return ids, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
