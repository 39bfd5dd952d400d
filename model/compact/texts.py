"""Texts of requests -> token states: by the English encoder (`model.compact.text_encoder`), or by the Chinese one where
a text has Chinese in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.compact.chinese import VOCABULARY, WEIGHTS, ChineseEncoder, ChineseTokenizer, load_chinese
from model.compact.network import CompactNet
from model.compact.storage import forget, recall
from model.compact.text_encoder import build_tokenizer, pad_ids, tokenize
from model.family import TokenizedText
from model.languages import foreign_script, has_han, is_foreign_latin, language_of


class Texts:
    """What a compact model makes of texts. The Chinese encoder lies in ``folder``, and is read from it when the first
    Chinese text comes: an English question costs nothing more."""

    def __init__(self, net: CompactNet, vocabulary: Sequence[str], folder: Path | None = None) -> None:
        self.net = net
        self.encode_english: Callable[[Tensor, Tensor], Tensor] = net.text
        """What computes `TextEncoder.forward`."""
        self.tokenizer: Tokenizer = build_tokenizer(vocabulary)
        self._words = frozenset(vocabulary)
        self._folder = folder
        self._forgotten = False

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it reads."""
        chinese = self._folder is not None and all((self._folder / name).is_file() for name in (WEIGHTS, VOCABULARY))
        return ("en", "zh") if chinese else ("en",)

    @cached_property
    def chinese(self) -> tuple[ChineseEncoder, ChineseTokenizer]:
        """The Chinese encoder and its tokenizer."""
        assert self._folder is not None  # noqa: S101 - asked for only where `languages` has it
        encoder, pieces = load_chinese(self._folder, self.net.config.num_heads)
        if self._forgotten:
            recall(self.net.text, self._folder / "model.safetensors", "text.")
        return encoder.to(self.net.head.bias.device), ChineseTokenizer(self.tokenizer, pieces)

    def forget_english(self) -> None:
        """Let go of the weights of ``net.text``, which something else computes, until the Chinese encoder needs its
        last layers."""
        if self._folder is not None and "chinese" not in vars(self):
            forget(self.net.text)
            self._forgotten = True

    def tokenize(self, text: str) -> TokenizedText:
        """The tokens of ``text`` between [CLS] and [SEP]: Chinese words and characters, and WordPiece's for the
        rest."""
        return self.chinese[1](text) if self.is_chinese(text) else tokenize(self.tokenizer, text)

    def is_chinese(self, text: str) -> bool:
        """Whether the Chinese encoder reads the text."""
        return has_han(text) and "zh" in self.languages

    def foreign(self, text: str) -> str | None:
        """What a text is that this model does not read, for an error's sentence; None for one that it reads."""
        script = foreign_script(text)
        if script is not None:
            return f"in {script}"
        if language_of(text) == "zh":
            return None if "zh" in self.languages else "in Chinese"
        return "not in English, as far as its words tell" if is_foreign_latin(text, self._words) else None

    def states(self, texts: Sequence[TokenizedText], *, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Token states ``[texts, tokens, dim]`` and their mask; each text through the encoder of its language.
        ``length``: cut longer texts."""
        ids, mask = self.ids(texts, length=length)
        chinese = [i for i, text in enumerate(texts) if text.chinese]
        if not chinese:
            return self.encode_english(ids, mask), mask
        encoder = self.chinese[0]
        if len(chinese) == len(texts):
            return encoder(ids, mask, self.net.text), mask
        english = [i for i, text in enumerate(texts) if not text.chinese]
        states = torch.empty(*ids.shape, self.net.config.dim, device=ids.device)
        states[english] = self.encode_english(ids[english], mask[english])
        states[chinese] = encoder(ids[chinese], mask[chinese], self.net.text)
        return states, mask

    def ids(self, texts: Sequence[TokenizedText], *, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Their padded ids ``[texts, tokens]`` and mask, where the network is."""
        ids, mask = pad_ids([text.ids[:length] for text in texts])
        device = self.net.head.bias.device
        return ids.to(device), mask.to(device)
