"""How answers are judged: the VQA normalisation and accuracy, kinds of answers, intervals by bootstrap, calibration.

Sources: the accuracy and its normalisation are those of the VQA challenge (Antol et al. 2015, Goyal et al. 2017); the
calibration error is that of Guo et al. 2017, with bins of equal count.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["yes/no", "number", "other"]
KINDS: tuple[Kind, ...] = ("yes/no", "number", "other")

_SET_SOURCES = frozenset({"daquar"})  # here several answers are one answer: all of the things asked for
_SAMPLES_AT_ONCE = 250  # keeps the draws of 15,000 images in 30 MB
_CONSENSUS_FROM = 4  # with fewer human answers, "three of the others agree" cannot be reached

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")
_NUMBER = re.compile(r"\d+([.:]\d+)?")
_ARTICLES = frozenset({"a", "an", "the"})
_COUNTS = "zero one two three four five six seven eight nine ten"
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_COUNTS.split())} | {"none": "0"}
# Words that stay words without their apostrophe (well, were, shell, ill, its ...) are left out on purpose.
_WITH_APOSTROPHE = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've he's how'd
how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am might've mightn't must've mustn't needn't o'clock oughtn't
shan't she'd've she's should've shouldn't shouldn't've somebody's someone's something's that'd that'll that's there'd
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what's what've when's where'd
where's where've who'd who'd've who'll who's who've why's won't would've wouldn't wouldn't've y'all you'd you'd've
you'll you're you've
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _WITH_APOSTROPHE.split()}


@lru_cache(maxsize=1 << 17)
def normalise(answer: str) -> str:
    """The form in which two answers are compared: lower case, punctuation, articles, number words and contractions as
    in the VQA challenge. Unlike its script, applied always, also where all human answers agree; and "no one" stays."""
    text = " ".join(answer.split())
    digit_comma = _DIGIT_COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        if mark in text:
            loose = digit_comma or f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if loose else " ")
    words = _LOOSE_PERIOD.sub("", out).lower().split()
    words = [
        word if word == "one" and before == "no" else _NUMBER_WORDS.get(word, word)  # "no 1" is nobody's answer
        for before, word in zip(["", *words], words, strict=False)
    ]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def judged_form(answer: str) -> str:
    """The answer after `normalise`, or only in lower case where that would leave nothing: "A", "the" and "?" stay three
    different answers."""
    return normalise(answer) or " ".join(answer.lower().split())


def majority(answers: Sequence[str]) -> str:
    """The commonest answer, in its `judged_form`; the first given among equals."""
    if len(answers) == 1:
        return judged_form(answers[0])
    return Counter(map(judged_form, answers)).most_common(1)[0][0]


def answer_kind(answers: Sequence[str]) -> Kind:
    """``yes/no``, ``number`` or ``other``, by the commonest answer."""
    answer = majority(answers)
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if _NUMBER.fullmatch(answer) else "other"


def _consensus(matches: int, total: int) -> float:
    """min(1, matches among the others / 3), averaged over leaving out each of ``total`` human answers in turn."""
    left_out_match = min(1.0, (matches - 1) / 3) if matches else 0.0
    return (matches * left_out_match + (total - matches) * min(1.0, matches / 3)) / total


def accuracy(predicted: str, answers: Sequence[str], source: str) -> float:
    """How right one predicted answer is, from 0 to 1.

    With four or more human answers (``vqa-v2`` has ten): VQA accuracy. With fewer: 1 if the prediction equals one of
    them after normalisation, else 0. ``daquar``: the answers are one set, and the prediction (things divided by commas)
    must name that set. Both are compared in their `judged_form`.
    """
    forms = [judged_form(answer) for answer in answers]
    if source in _SET_SOURCES:
        return float({judged_form(part) for part in predicted.split(",")} == set(forms))
    if len(forms) < _CONSENSUS_FROM:
        return float(judged_form(predicted) in forms)
    return _consensus(forms.count(judged_form(predicted)), len(forms))


def soft_targets(answers: Sequence[str], source: str) -> dict[str, float]:
    """What training aims at: each human answer, in its `judged_form`, with the `accuracy` that it would get.

    The members of a ``daquar`` set share 1 evenly: no single member is the answer, but each is part of it.
    """
    counts = Counter(map(judged_form, answers))
    if source in _SET_SOURCES:
        return {answer: 1 / len(counts) for answer in counts}
    if len(answers) < _CONSENSUS_FROM:
        return dict.fromkeys(counts, 1.0)
    return {answer: _consensus(count, len(answers)) for answer, count in counts.items()}


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the interval that holds it (95% unless asked otherwise), in the unit of the values.

    ``low`` and ``high`` are NaN where there is no interval; every comparison with them is then False.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        """Whether there is an interval, not the mean alone."""
        return not math.isnan(self.low)

    def percent(self) -> str:
        """As in the tables: ``41.2 [39.0, 43.3]``, or the mean alone."""
        mean = f"{100 * self.mean:.1f}"
        return f"{mean} [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.known else mean


def bootstrap(
    values: ArrayLike, groups: Sequence[Hashable], *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean of ``values`` ``[n]`` with its percentile bootstrap interval. Whole groups (images) are drawn, with
    replacement.

    Questions about one image are not independent, so drawing single questions would make the interval too narrow. With
    a single group every draw is the same, so the mean comes without an interval.

    Raises:
        ValueError: no values, or not one group per value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or len(numbers) != len(groups):
        raise ValueError(f"one group a value is needed: {numbers.shape} values, {len(groups)} groups")
    index_of: dict[Hashable, int] = {}
    index = np.array([index_of.setdefault(group, len(index_of)) for group in groups])
    size = len(index_of)
    if size == 1:
        return Interval(float(numbers.mean()), math.nan, math.nan, len(numbers))
    sums = np.bincount(index, weights=numbers, minlength=size)
    counts = np.bincount(index, minlength=size).astype(np.float64)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, samples, _SAMPLES_AT_ONCE):
        draws = rng.integers(size, size=(min(_SAMPLES_AT_ONCE, samples - start), size))
        parts.append(sums[draws].sum(axis=1) / counts[draws].sum(axis=1))
    means = np.concatenate(parts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(numbers.mean()), float(low), float(high), len(numbers))


def paired_bootstrap(
    values: ArrayLike,
    others: ArrayLike,
    groups: Sequence[Hashable],
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of ``values - others``, both ``[n]``: two models' scores on the same questions, with its interval.

    Raises:
        ValueError: as `bootstrap`.
    """
    difference: NDArray[np.float64] = np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    return bootstrap(difference, groups, samples=samples, level=level, seed=seed)


def calibration_error(confidences: ArrayLike, accuracies: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error: |mean confidence - mean accuracy| over bins of equal count, weighted by count.

    Both are ``[n]``, from 0 to 1; ``accuracies`` may be soft (VQA accuracy). The bins have equal counts, because a
    model's confidences crowd at one end: most bins of equal width would hold only a handful of questions.

    Raises:
        ValueError: no values, or two of different length.
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    correct = np.asarray(accuracies, dtype=np.float64)
    if confidence.shape != correct.shape or confidence.ndim != 1 or len(confidence) == 0:
        raise ValueError(f"one accuracy a confidence is needed: {confidence.shape} and {correct.shape}")
    order = np.argsort(confidence, kind="stable")
    gaps = [
        abs(confidence[part].mean() - correct[part].mean()) * len(part)
        for part in np.array_split(order, min(bins, len(order)))
    ]
    return float(sum(gaps) / len(order))


def calibration_without_chance(confidences: ArrayLike, accuracies: ArrayLike, *, bins: int = 15) -> float:
    """The root mean square of the bins' gaps, from whose square what chance adds is taken: the debiased estimator of
    Kumar et al. 2019 ("Verified Uncertainty Calibration"). 0 where the gaps are no larger than chance makes them.

    Arguments and bins as in `calibration_error`, which it would be at least as large as if there were no chance.

    Raises:
        ValueError: fewer than two values, or two of different length.
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    correct = np.asarray(accuracies, dtype=np.float64)
    if confidence.shape != correct.shape or confidence.ndim != 1 or len(confidence) < 2:
        raise ValueError(f"two accuracies at least are needed: {confidence.shape} and {correct.shape}")
    gap = (confidence - correct)[np.argsort(confidence, kind="stable")]
    parts = np.array_split(gap, min(bins, len(gap) // 2))  # a bin of one has no variance
    squared = sum(len(part) * part.mean() ** 2 - part.var(ddof=1) for part in parts) / len(gap)
    return math.sqrt(max(0.0, squared))


def calibration_noise(confidences: ArrayLike, *, bins: int = 15, draws: int = 200, seed: int = 0) -> float:
    """The `calibration_error` that chance alone gives to scores that are exactly right: its mean where each answer is
    right as likely as its score ``[n]`` says. With few answers in a bin that is much (Broecker and Smith 2007).

    Raises:
        ValueError: no values.
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    rng = np.random.default_rng(seed)
    right = rng.random((draws, confidence.size)) < confidence
    return float(np.mean([calibration_error(confidence, draw, bins=bins) for draw in right]))
