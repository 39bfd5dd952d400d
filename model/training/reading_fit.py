"""Fits which text a question asks for: ``python -m model.training.reading_fit --data DIR [--write]``.

People's questions for text (`model.compact.reading.questions`) about the photographs of the split ``train``: the lines
of each are read, the model says where the question looks, and `model.compact.reading.choice` gets the weights under
which the answers that people gave are most likely. Prints how often its first choice was right, and how likely it had
called that, on photographs left out of the fit. ``--write`` keeps the weights.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from model.compact import model as compact
from model.compact.reading import choice
from model.compact.reading.lines import Line, load_reader
from model.compact.reading.questions import asks_for
from model.evaluation.data import DataSet, ImageRef, read_data
from model.interface import EncodedImage

_RIGHT = 0.85  # how like the answer a text must be: one letter of ten may be wrong
_DECAY = 0.3
_FOLDS = 5
_NOTHING = ("none", "nothing", "no", "unknown", "0", "can't tell", "unreadable", "not sure", "not visible")


class Example(NamedTuple):
    """A question's pieces: their ``features`` ``[pieces, features]``, and which of them are right ``[pieces]``.
    ``nothing``: people said that there is nothing to read."""

    image: str
    features: NDArray[np.float64]
    right: NDArray[np.bool_]
    nothing: bool
    only_text: bool


def gather(model: compact.CompactModel, data: DataSet, split: str) -> list[Example]:
    """An example for each of people's questions that asks for text.

    Raises: RuntimeError where the extra ``reading`` is not installed.
    """
    reader = load_reader()
    if reader is None:
        raise RuntimeError("the extra `reading` is not installed")
    seen: dict[ImageRef, tuple[tuple[Line, ...], EncodedImage]] = {}
    examples = []
    for question in tqdm([q for q in data.questions if q.split == split], unit="question", disable=None):
        asked = asks_for(question.question) if question.source.startswith("vqa") else None
        if asked is None:
            continue
        if question.image_ref not in seen:
            pixels = model.info.preprocess(data.open_image(question.image_ref))
            if pixels.detail is None:
                raise RuntimeError(f"{model.info.id} does not read")
            seen[question.image_ref] = reader(pixels.detail), model.encode([pixels])[0]
        lines, image = seen[question.image_ref]
        pieces = choice.find_pieces(lines, asked)
        known = [piece.text.lower() in model.answers for piece in pieces]
        looks = model.look(image, question.question)
        counts = Counter(question.answers)
        answers = [answer for answer, count in counts.items() if count > 1 or len(question.answers) == 1]
        right = [any(choice.likeness(piece.text, answer) >= _RIGHT for answer in answers) for piece in pieces]
        features = choice.describe(pieces, asked, question.question, looks, known)
        nothing = counts.most_common(1)[0][0].lower() in _NOTHING
        examples.append(Example(question.image_ref.name, features, np.array(right, np.bool_), nothing, asked.only_text))
    return examples


def fit(examples: Sequence[Example]) -> NDArray[np.float64]:
    """The weights ``[features]`` of greatest likelihood, all but the bias drawn towards 0."""
    weights = torch.zeros(len(choice.FEATURES), dtype=torch.float64, requires_grad=True)
    rows = [(torch.from_numpy(e.features), torch.from_numpy(e.right)) for e in examples if len(e.right)]
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = _DECAY * (weights[1:] ** 2).sum()
        for features, right in rows:
            logits = torch.cat([features @ weights, features.new_zeros(1)])
            correct = torch.cat([right, ~right.any()[None]])
            total = total + logits.logsumexp(0) - logits[correct].logsumexp(0)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    fitted: NDArray[np.float64] = weights.detach().numpy()
    return fitted


def held_out(examples: Sequence[Example]) -> list[tuple[float, bool]]:
    """Score and rightness of the first choice for each example with pieces, its photograph left out of the fit."""
    fold = {name: i % _FOLDS for i, name in enumerate(sorted({e.image for e in examples}))}
    found = []
    for left_out in range(_FOLDS):
        weights = fit([e for e in examples if fold[e.image] != left_out])
        for example in examples:
            if fold[example.image] == left_out and len(example.right):
                shares = choice.probabilities(example.features, weights)
                found.append((float(shares.max()), bool(example.right[shares.argmax()])))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--write", action="store_true", help=f"keep the weights in {choice.WEIGHTS.name}")
    options = parser.parse_args(arguments)
    examples = gather(compact.load(id="compact"), read_data(options.data), "train")
    weights = fit(examples)
    empty = [e.nothing for e in examples if e.only_text and not len(e.right)]
    kept = {
        "weights": {name: round(float(x), 4) for name, x in zip(choice.FEATURES, weights, strict=True)},
        "no_text": round(float(np.mean(empty)) if empty else 0.0, 3),
    }
    scores, right = (np.array(column) for column in zip(*held_out(examples), strict=True))
    report = [f"{len(examples)} questions, {len(scores)} with text; the right text was among it for "
              f"{sum(bool(e.right.any()) for e in examples)}, chosen for {right.sum()}"]  # fmt: skip
    for low, high in ((0.0, 0.2), (0.2, 0.35), (0.35, 0.5), (0.5, 0.7), (0.7, 1.0)):
        among = (scores >= low) & (scores < high)
        if among.any():
            report.append(f"score {low} to {high}: {among.sum()}, mean {scores[among].mean():.2f}, "
                          f"right {right[among].mean():.2f}")  # fmt: skip
    tqdm.write("\n".join([*report, json.dumps(kept, indent=1)]))
    if options.write:
        Path(choice.WEIGHTS).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
