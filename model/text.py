"""Question -> token features: a WordPiece tokenizer with a cut vocabulary, and the first layers of a BERT encoder.

The layers are those of transformers (`BertModel`), started from the sentence encoder all-MiniLM-L6-v2. The vocabulary
keeps the pieces that questions use and every single letter, so that other words still work by pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import BertConfig, BertModel

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
_TYPOGRAPHIC = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"}  # what keyboards of phones make of ASCII


def build_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """A lower-casing WordPiece tokenizer. ``vocabulary`` starts with `SPECIAL_TOKENS`; a piece's id is its index."""
    if tuple(vocabulary[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS:
        raise ValueError(f"a vocabulary must start with {', '.join(SPECIAL_TOKENS)}")
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    model = WordPiece(ids, unk_token=SPECIAL_TOKENS[UNK], max_input_chars_per_word=100)
    tokenizer = Tokenizer(model)
    plain = [Replace(sign, ascii_sign) for sign, ascii_sign in _TYPOGRAPHIC.items()]
    tokenizer.normalizer = Normalizers([*plain, BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.add_special_tokens(["[MASK]"])
    return tokenizer


class TokenizedText(NamedTuple):
    """One text as tokens; ``spans`` are half-open, in code points of the text as sent, None for special tokens."""

    ids: list[int]
    texts: list[str]
    spans: list[tuple[int, int] | None]

    @property
    def unknown_share(self) -> float:
        """The share of tokens, without the special ones, that the vocabulary cannot represent."""
        known = [i for i, span in zip(self.ids, self.spans, strict=True) if span is not None]
        return sum(i == UNK for i in known) / len(known) if known else 0.0


def tokenize(tokenizer: Tokenizer, text: str) -> TokenizedText:
    """Tokens of ``text`` with [CLS] before and [SEP] behind."""
    encoding = tokenizer.encode(text)
    special = encoding.special_tokens_mask
    spans = [None if s else (start, end) for s, (start, end) in zip(special, encoding.offsets, strict=True)]
    return TokenizedText(encoding.ids, encoding.tokens, spans)


def pad_ids(ids: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids ``[batch, tokens]`` and their mask (True: a token, False: padding)."""
    length = length or max(len(row) for row in ids)
    padded = torch.tensor([[*row, *[PAD] * (length - len(row))] for row in ids], dtype=torch.long)
    return padded, padded != PAD


class TextEncoder(nn.Module):
    """Token ids -> token features, through ``layers`` BERT layers."""

    def __init__(self, vocabulary_size: int, *, dim: int, num_heads: int, layers: int, max_tokens: int) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=dim,
            num_attention_heads=num_heads,
            num_hidden_layers=layers,
            intermediate_size=4 * dim,
            max_position_embeddings=max_tokens,
        )
        config._attn_implementation = "sdpa"
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``ids`` int64 and ``mask`` bool ``[batch, tokens]`` -> features ``[batch, tokens, dim]``."""
        states: Tensor = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return states
