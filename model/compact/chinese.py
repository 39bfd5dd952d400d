"""Chinese text -> the states that the English encoder gives to the same sentence in English.

Everything behind the text encoder (queries, fusion, answers) stays as it is: the Chinese encoder has a vocabulary and
first layers of its own, and then goes through the English encoder's last layers. It is trained to give a sentence the
states of its translation (multilingual distillation: Reimers and Gurevych 2020, https://arxiv.org/abs/2004.09813), each
Chinese word those of the English words that it stands for (`model.training.chinese`).

Latin letters, digits and punctuation in a Chinese sentence keep the English pieces and their vectors, so that mixed
sentences need nothing more. Words are those of jieba's dictionary (by jieba-rs); a word that the vocabulary lacks is
made of its longest known pieces, at last of its characters.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model.compact.answer_words import TABLE
from model.compact.storage import Uninitialised, load_small, save_small
from model.compact.text_encoder import CLS, SEP, SPECIAL_TOKENS, UNK, TextEncoder, TextLayer
from model.family import TokenizedText
from model.languages import HAN, plain_width

Span = tuple[int, int]

WEIGHTS = "chinese.safetensors"
VOCABULARY = "chinese.txt"

_PAIRS = Path(__file__).with_name("traditional.txt").read_text(encoding="utf-8").split()
_SIMPLE = {ord(pair[0]): pair[1] for pair in _PAIRS}
_HAN_RUN = re.compile(rf"{HAN}+")
_LETTERS = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def simplified(text: str) -> str:
    """The text with the traditional characters of ``traditional.txt`` as the simplified ones, one for one."""
    plain = text.translate(_SIMPLE)
    # In simplified text this one is another word (著名), so it is changed only beside others.
    return text if plain == text else plain.replace("著", "着")


def segment(text: str) -> list[Span]:
    """The words of a text with Chinese in it: spans in code points. Punctuation is no word."""
    import rjieba  # its dictionary takes a moment and some memory, which no other language needs

    words: list[Span] = []
    at = 0
    for run in _HAN_RUN.finditer(text):
        words += [(at + found.start(), at + found.end()) for found in _LETTERS.finditer(text[at : run.start()])]
        at = run.start()
        for word in rjieba.cut(run.group(), hmm=False):  # guessed words would take neighbours in: 马在
            words.append((at, at + len(word)))
            at += len(word)
    return words + [(at + found.start(), at + found.end()) for found in _LETTERS.finditer(text[at:])]


class ChineseTokenizer:
    """Splits texts with Chinese in them. ``pieces`` are the Chinese words and characters that have a vector; the ids of
    the first is the number of English pieces."""

    def __init__(self, english: Tokenizer, pieces: Sequence[str]) -> None:
        self._english = english
        first = english.get_vocab_size()
        self._ids = {piece: first + i for i, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces), default=1)

    def __call__(self, text: str) -> TokenizedText:
        """The tokens of ``text`` between [CLS] and [SEP], and its words."""
        text = simplified(plain_width(text))
        words = segment(text)
        ids, texts = [CLS], [SPECIAL_TOKENS[CLS]]
        spans: list[Span | None] = [None]
        at = 0
        for start, end in [*words, (len(text), len(text))]:
            for a, b, chinese in ((at, start, False), (start, end, bool(_HAN_RUN.match(text, start)))):
                found = self._pieces(text, a, b) if chinese else self._latin(text, a, b)
                for id, piece, span in found:
                    ids.append(id)
                    texts.append(piece)
                    spans.append(span)
            at = end
        unknown = sum(id == UNK for id in ids) / max(1, len(ids) - 1)
        texts.append(SPECIAL_TOKENS[SEP])
        return TokenizedText([*ids, SEP], texts, [*spans, None], unknown, words, chinese=True)

    def _latin(self, text: str, start: int, end: int) -> list[tuple[int, str, Span]]:
        if start == end:
            return []
        found = self._english.encode(text[start:end], add_special_tokens=False)
        return [
            (id, piece, (start + a, start + b))
            for id, piece, (a, b) in zip(found.ids, found.tokens, found.offsets, strict=True)
        ]

    def _pieces(self, text: str, start: int, end: int) -> list[tuple[int, str, Span]]:
        """A word by the longest known pieces, from its start on."""
        found = []
        while start < end:
            lengths = range(min(self._longest, end - start), 0, -1)
            length = next((n for n in lengths if text[start : start + n] in self._ids), 1)
            piece = text[start : start + length]
            found.append((self._ids.get(piece, UNK), piece, (start, start + length)))
            start += length
        return found


class ChineseEncoder(nn.Module):
    """Token ids of a `ChineseTokenizer` -> token states in the space of ``english``, whose word vectors, norm and last
    layers it uses."""

    def __init__(self, pieces: int, *, dim: int, num_heads: int, layers: int, max_tokens: int) -> None:
        super().__init__()
        self.words = nn.Embedding(pieces, dim)
        self.positions = nn.Parameter(torch.randn(max_tokens, dim))
        self.layers = nn.ModuleList(TextLayer(dim, num_heads) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor, english: TextEncoder) -> Tensor:
        """``ids`` int64 and ``mask`` bool ``[batch, tokens]`` -> states ``[batch, tokens, dim]``."""
        own = ids - english.words.num_embeddings
        vectors = torch.where((own >= 0)[..., None], self.words(own.clamp_min(0)), english.words(ids * (own < 0)))
        states: Tensor = english.norm(vectors + self.positions[: ids.shape[1]])
        for layer in [*self.layers, *english.layers[len(self.layers) :]]:
            states = layer.feed_forward(layer.attend(states, states, mask))
        return states


def save_chinese(encoder: ChineseEncoder, pieces: Sequence[str], folder: Path) -> None:
    """Write the encoder's two files into a model's folder."""
    save_small(encoder.state_dict(), folder / WEIGHTS)
    (folder / VOCABULARY).write_text("\n".join(pieces) + "\n", encoding="utf-8")


def load_chinese(folder: Path, num_heads: int) -> tuple[ChineseEncoder, list[str]]:
    """Read what `save_chinese` wrote: the encoder and its pieces. Raises OSError, ValueError or RuntimeError where the
    files are not whole."""
    weights = load_small(folder / WEIGHTS)
    pieces = (folder / VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    max_tokens, dim = weights["positions"].shape
    layers = len({name.split(".")[1] for name in weights if name.startswith("layers.")})
    with Uninitialised():
        encoder = ChineseEncoder(len(pieces), dim=dim, num_heads=num_heads, layers=layers, max_tokens=max_tokens)
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval().requires_grad_(False), pieces


def files_in(folder: Path) -> list[Path]:
    """What there is in a folder of the files that make a model Chinese: the encoder's and the table of answers. They
    hold for every model with the same text layers."""
    return [folder / name for name in (WEIGHTS, VOCABULARY, TABLE) if (folder / name).is_file()]


def copy_files(source: Path | None, folder: Path) -> None:
    """Copy these files into another model's folder, such as one that was trained on from it."""
    if source is not None and source.resolve() != folder.resolve():
        for file in files_in(source):
            shutil.copyfile(file, folder / file.name)
