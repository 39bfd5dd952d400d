"""Features of the texts that training reads: the text layers are frozen, so each text goes through them once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from model.compact.text_encoder import TextEncoder, pad_ids, tokenize

MAX_TRAIN_TOKENS = 20  # the longest captions are cut: padding costs as much as text
_AT_ONCE = 128


class TextCache:
    """Token features by text, kept in memory and, where there is a ``folder``, in a file that outlives the run."""

    def __init__(
        self, encoder: TextEncoder, tokenizer: Tokenizer, device: torch.device, folder: Path | None = None
    ) -> None:
        self.encoder, self.tokenizer, self.device = encoder, tokenizer, device
        pieces = tokenizer.get_vocab()
        digest = hashlib.sha256("\n".join(sorted(pieces, key=pieces.__getitem__)).encode())
        for parameter in encoder.parameters():
            digest.update(parameter.detach().half().cpu().numpy().tobytes())
        self._file = None if folder is None else folder / f"texts.{digest.hexdigest()[:12]}.pt"
        self._states: dict[str, Tensor] = {}  # float16 [tokens, dim]
        self._words: dict[tuple[str, tuple[int, int]], list[int]] = {}
        if self._file is not None and self._file.exists():
            self._states = torch.load(self._file, weights_only=True)

    def add(self, texts: Iterable[str]) -> None:
        """Make the features of many texts ahead, and keep them in the file."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._states]
        missing.sort(key=len)  # texts of a length side by side: little padding
        for at in tqdm(range(0, len(missing), _AT_ONCE), desc="features of texts", unit="batch", disable=not missing):
            self._make(missing[at : at + _AT_ONCE])
        if missing and self._file is not None:
            torch.save(self._states, self._file.with_suffix(".new"))
            self._file.with_suffix(".new").replace(self._file)

    def take(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features ``[texts, tokens, dim]``, float32, and their mask ``[texts, tokens]``."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._states]
        if missing:
            self._make(missing)
        each = [self._states[text].to(self.device) for text in texts]
        states = torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
        lengths = torch.tensor([len(one) for one in each], device=states.device)
        return states.float(), torch.arange(states.shape[1], device=states.device) < lengths[:, None]

    def tokens_of(self, text: str, word: tuple[int, int], tokens: int) -> list[int]:
        """Which of the first ``tokens`` tokens of a text lie in the characters ``word``."""
        if (text, word) not in self._words:
            spans = tokenize(self.tokenizer, text).spans
            inside = [i for i, span in enumerate(spans) if span and span[0] < word[1] and span[1] > word[0]]
            self._words[text, word] = inside
        return [i for i in self._words[text, word] if i < tokens]

    @torch.no_grad()
    def _make(self, texts: Sequence[str]) -> None:
        ids, mask = pad_ids([tokenize(self.tokenizer, text).ids[:MAX_TRAIN_TOKENS] for text in texts])
        found = self.encoder(ids.to(self.device), mask.to(self.device)).half().cpu()
        for text, states, count in zip(texts, found, mask.sum(1).tolist(), strict=True):
            self._states[text] = states[:count].clone()
