"""A checkpoint's own tokenizer, giving what maps need: where each token stands in the text as it was sent."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.family import Span, TokenizedText

_SPACE = "\u2581"  # SentencePiece's mark for one
_CHARACTER = re.compile(r"\s+|\S")


class Tokenizer:
    """Wraps a fast tokenizer of transformers (one with offsets). What a text spells like a special token is text."""

    def __init__(self, tokenizer: Any) -> None:
        self.hub = tokenizer

    def __call__(self, text: str) -> TokenizedText:
        """Tokens of ``text`` between the tokenizer's own special ones; nothing is cut off."""
        encoding = self.hub._tokenizer.encode(text)
        special = encoding.special_tokens_mask
        spans: list[Span | None] = [None if s else o for s, o in zip(special, encoding.offsets, strict=True)]
        words = [i for i, span in zip(encoding.ids, spans, strict=True) if span is not None]
        unknown = self.hub.unk_token_id
        share = sum(i == unknown for i in words) / len(words) if words else 0.0
        return TokenizedText(encoding.ids, encoding.tokens, spans, share)

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
    """Wraps `SiglipTokenizer`, which has no offsets, drops punctuation and case, and lets SentencePiece normalise what
    is left: one character of the text may be several of the pieces', or several one."""

    def __call__(self, text: str) -> TokenizedText:
        """Tokens of ``text``, each with the part of it that SentencePiece made the piece of."""
        canonical, places = self._canonical(text)
        # As SiglipTokenizer does: the mark gives the first word its space, and without something before it
        # SentencePiece would take it away.
        before = f"{self.hub.unk_token}{_SPACE}"
        pieces = self.hub.sp_model.encode(before + canonical, return_type="proto").pieces
        pieces = pieces[self.hub.unk_token_length :]
        ids: list[int] = self.hub.build_inputs_with_special_tokens([piece.id for piece in pieces])
        # Offsets are in bytes. All bytes of a character stand for its place, those of the mark for none.
        by_byte: list[int | None] = [None] * len(before.encode())
        by_byte += [place for char, place in zip(canonical, places, strict=True) for _ in char.encode()]
        spans = [_span(text, by_byte[piece.begin : max(piece.end, piece.begin + 1)]) for piece in pieces]
        unknown = sum(piece.id == self.hub.unk_token_id for piece in pieces)
        texts = self.texts(ids)
        return TokenizedText(ids, texts, [*spans, *[None] * (len(ids) - len(pieces))], unknown / max(1, len(pieces)))

    def _canonical(self, text: str) -> tuple[str, list[int]]:
        """What SiglipTokenizer gives SentencePiece, and the place in ``text`` of each of its characters."""
        text = text.replace(_SPACE, " ")
        lowered = text.lower() if self.hub.do_lower_case else text  # as a whole: a sigma looks at what follows it
        lengths = [len(char.lower()) if self.hub.do_lower_case else 1 for char in text]
        places = [place for place, length in enumerate(lengths) for _ in range(length)]
        kept = [(char, place) for char, place in zip(lowered, places, strict=True) if char not in string.punctuation]
        spaced = "".join(char for char, _ in kept)
        ends = len(spaced.rstrip())
        found = [(" " if m[0].isspace() else m[0], kept[m.start()][1]) for m in _CHARACTER.finditer(spaced, 0, ends)]
        return "".join(char for char, _ in found), [place for _, place in found]


def _span(text: str, places: Sequence[int | None]) -> Span | None:
    """From the first to behind the last of these places in ``text``, without what does not show around a word."""
    known = [place for place in places if place is not None]
    shown = [place for place in known if text[place].isprintable() and not text[place].isspace()] or known
    return (shown[0], shown[-1] + 1) if shown else None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder.

    Raises ValueError where there is none that can be used.
    """
    from transformers import AutoTokenizer, SiglipTokenizer

    options = {"trust_remote_code": False, "local_files_only": True, "split_special_tokens": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
    except Exception as error:  # transformers raises what it likes: OSError, ValueError, KeyError, pyo3's own
        raise ValueError(f"the tokenizer of {folder} cannot be loaded: {error}") from error
    if tokenizer.is_fast:
        _lower_case(tokenizer)
        tokenizer._tokenizer.no_truncation()
        tokenizer._tokenizer.no_padding()
        return Tokenizer(tokenizer)
    if isinstance(tokenizer, SiglipTokenizer):
        return SentencePieceTokenizer(tokenizer)
    raise ValueError(f"{folder} has no fast tokenizer (tokenizer.json), which maps need for their spans")


def _lower_case(tokenizer: Any) -> None:
    """Let a tokenizer lower its letters where its settings say so: Gemma's, which SigLIP 2 took, knows no such setting,
    although the model was trained so (transformers has `Siglip2Tokenizer` for its newer folders)."""
    from tokenizers import normalizers

    backend = tokenizer._tokenizer
    if tokenizer.init_kwargs.get("do_lower_case") and backend.encode("A CAT").ids != backend.encode("a cat").ids:
        rest = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def pad(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Ids ``[rows, tokens]`` and their mask (True: a token); None where all rows are of one length."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return ids, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
