"""Question -> token features: a WordPiece tokenizer with a cut vocabulary, and the first layers of a BERT encoder.

The layers start from the sentence encoder all-MiniLM-L6-v2. They are written out here, since importing a library's
takes longer than loading the whole model. The vocabulary keeps the pieces that questions use and every single letter,
so that other words still work by pieces.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from model.family import TokenizedText
from model.languages import plain_width

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
_TYPOGRAPHIC = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"}  # what keyboards of phones make of ASCII
_NORM_EPSILON = 1e-12
_BERT_NAMES = {  # the parts of a `TextLayer` in a BERT checkpoint
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "self_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}


def build_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """A lower-casing WordPiece tokenizer. ``vocabulary`` starts with `SPECIAL_TOKENS`; a piece's id is its index.

    Raises ValueError for a vocabulary that starts otherwise.
    """
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


def tokenize(tokenizer: Tokenizer, text: str) -> TokenizedText:
    """Tokens of ``text`` with [CLS] before and [SEP] behind."""
    encoding = tokenizer.encode(plain_width(text))
    special = encoding.special_tokens_mask
    spans = [None if s else (start, end) for s, (start, end) in zip(special, encoding.offsets, strict=True)]
    known = [i for i, s in zip(encoding.ids, special, strict=True) if not s]
    unknown_share = sum(i == UNK for i in known) / len(known) if known else 0.0
    return TokenizedText(encoding.ids, encoding.tokens, spans, unknown_share)


def pad_ids(ids: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids ``[batch, tokens]`` and their mask (True: a token, False: padding)."""
    length = length or max(len(row) for row in ids)
    padded = torch.tensor([[*row, *[PAD] * (length - len(row))] for row in ids], dtype=torch.long)
    return padded, padded != PAD


class TextLayer(nn.Module):
    """A layer of BERT in two halves, each with its residual and a norm behind it: `attend`, then `feed_forward`.

    Source: Devlin et al. 2019, https://arxiv.org/abs/1810.04805; the sizes and constants are those of its checkpoints.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        self.self_norm = nn.LayerNorm(dim, eps=_NORM_EPSILON)
        self.expand, self.contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def attend(self, asking: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """``asking`` ``[rows, n, dim]``, all or some of the tokens ``x`` ``[rows, tokens, dim]``, look at those that
        ``mask`` (bool ``[rows, tokens]``) has True. Returns new states ``[rows, n, dim]``."""
        queries, keys, values = self._split(self.query(asking)), self._split(self.key(x)), self._split(self.value(x))
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None, None, :])
        states: Tensor = self.self_norm(asking + self.dropout(self.output(attended.transpose(1, 2).flatten(2))))
        return states

    def feed_forward(self, x: Tensor) -> Tensor:
        """``[rows, n, dim]`` -> the same, each token by itself."""
        states: Tensor = self.feed_forward_norm(x + self.dropout(self.contract(F.gelu(self.expand(x)))))
        return states

    def self_map(self, x: Tensor, mask: Tensor) -> Tensor:
        """The head mean ``[rows, tokens, tokens]`` of the attention that `attend` does on the same ``x``."""
        queries, keys = self._split(self.query(x)), self._split(self.key(x))
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        return scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1).mean(1)

    def _split(self, x: Tensor) -> Tensor:
        """``[rows, tokens, dim]`` -> ``[rows, heads, tokens, head_dim]``."""
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)


class TextEncoder(nn.Module):
    """Token ids -> token features, through ``layers`` BERT layers. `bert_weights` takes weights from a checkpoint."""

    def __init__(self, vocabulary_size: int, *, dim: int, num_heads: int, layers: int, max_tokens: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, dim)
        self.positions = nn.Parameter(torch.randn(max_tokens, dim))
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPSILON)
        self.layers = nn.ModuleList(TextLayer(dim, num_heads) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``ids`` int64 and ``mask`` bool ``[batch, tokens]`` -> features ``[batch, tokens, dim]``."""
        states: Tensor = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        for layer in self.layers:
            states = layer.feed_forward(layer.attend(states, states, mask))  # type: ignore[operator]
        return states


def bert_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BERT checkpoint (``embeddings.word_embeddings.weight``, ``encoder.layer.0.attention.self.query.weight`` ...)
    under `TextEncoder`'s names, shapes unchanged (``words.weight`` ``[vocabulary, dim]``). All our tokens are of one
    type, so its vector is added to ``positions`` ``[max_tokens, dim]``."""
    weights = {
        "words.weight": published["embeddings.word_embeddings.weight"],
        "positions": published["embeddings.position_embeddings.weight"]
        + published["embeddings.token_type_embeddings.weight"][0],
    }
    for part in ("weight", "bias"):
        weights[f"norm.{part}"] = published[f"embeddings.LayerNorm.{part}"]
        for index in itertools.count():
            if f"encoder.layer.{index}.output.dense.weight" not in published:
                break
            for ours, theirs in _BERT_NAMES.items():
                weights[f"layers.{index}.{ours}.{part}"] = published[f"encoder.layer.{index}.{theirs}.{part}"]
    return weights
