"""Which words of two sentences stand for each other: IBM Model 1 (Brown et al. 1993), by expectation maximisation.

It gives what distillation needs: for each token of a Chinese sentence the shares of the English tokens that it stands
for, and for each piece of the Chinese vocabulary the English pieces whose vectors it starts from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NULL = 0
"""The English "token" that Chinese tokens come from which stand for none: the id of padding, which no sentence has."""

_SMOOTHING = 1e-3


class Alignment:
    """A fitted model. ``pairs`` are (English ids, Chinese ids), without special tokens."""

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, iterations: int = 6) -> None:
        self.pairs = pairs
        size = 1 + max((max(e, default=0) for e, _ in pairs), default=0)
        # One row for each Chinese token of each sentence and each English token that it may come from.
        english, chinese, tokens = [], [], []
        token = 0
        for one, other in pairs:
            from_ids = [NULL, *one]
            for id in other:
                english.append(from_ids)
                chinese.append([id] * len(from_ids))
                tokens.append([token] * len(from_ids))
                token += 1
        self._english = np.fromiter((x for row in english for x in row), np.int64)
        self._chinese = np.fromiter((x for row in chinese for x in row), np.int64)
        self._tokens = np.fromiter((x for row in tokens for x in row), np.int64)
        keys, self._key = np.unique(self._chinese * size + self._english, return_inverse=True)
        self._key_english, self._key_chinese = keys % size, keys // size
        self._probability = np.ones(len(keys))
        for _ in range(iterations):
            counts = np.bincount(self._key, self.shares(), len(keys))
            totals = np.bincount(self._key_english, counts, size)
            self._probability = (counts + _SMOOTHING) / (totals[self._key_english] + 1.0)
        self._counts = np.bincount(self._key, self.shares(), len(keys))

    def shares(self) -> NDArray[np.float64]:
        """For all Chinese tokens of all pairs in order, the shares of NULL and of each English token, flat: ``[sum of
        Chinese tokens * (1 + English tokens)]``. They sum to 1 for each Chinese token."""
        found = self._probability[self._key]
        sums = np.bincount(self._tokens, found)
        result: NDArray[np.float64] = found / sums[self._tokens]
        return result

    def by_pair(self) -> list[NDArray[np.float32]]:
        """For each pair the shares ``[Chinese tokens, 1 + English tokens]``, that of NULL first."""
        flat = self.shares().astype(np.float32)
        found, at = [], 0
        for one, other in self.pairs:
            size = len(other) * (1 + len(one))
            found.append(flat[at : at + size].reshape(len(other), 1 + len(one)))
            at += size
        return found

    def translations(self) -> dict[int, list[tuple[int, float]]]:
        """For each Chinese id the English ids that it stands for, with shares that sum to 1; none for an id that stands
        for nothing."""
        found: dict[int, list[tuple[int, float]]] = {}
        for english, chinese, count in zip(self._key_english, self._key_chinese, self._counts, strict=True):
            if english != NULL and count > 0.05:
                found.setdefault(int(chinese), []).append((int(english), float(count)))
        result = {}
        for chinese, options in found.items():
            best = sorted(options, key=lambda option: -option[1])[:8]
            kept = [(e, c) for e, c in best if c > 0.1 * best[0][1]]
            whole = sum(c for _, c in kept)
            result[chinese] = [(e, c / whole) for e, c in kept]
        return result
