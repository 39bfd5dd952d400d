"""Trains the Chinese text encoder to give a sentence the states of its English translation.

Usage: ``python -m model.training.chinese.train --data FOLDER --work FOLDER [--out FOLDER]``. The English encoder is
that of ``--model`` and stays as it is. Everything that is made on the way (pairs, targets, the last checkpoint) is kept
in ``--work``; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compact.chinese import VOCABULARY, ChineseEncoder, ChineseTokenizer, save_chinese, segment
from model.compact.model import EMBEDDED, load
from model.compact.text_encoder import CLS, SEP, TextEncoder, pad_ids, tokenize
from model.languages import plain_width
from model.training.chinese.align import NULL, Alignment
from model.training.chinese.pairs import Pair, gather

LAYERS = 2
MAX_PIECES = 10_000
MAX_TOKENS = 24
_RARE = {"caption": 4}  # a word of captions alone gets a vector if it occurs so often; its characters do anyway
_SPLIT, _ENGLISH = 0.12, 0.05
_SORTED_OVER = 40  # batches: sentences of a length go together


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence to learn: its ids with special tokens, where the states of the English one begin and how many they
    are, and for each own token the shares of NULL and of the English own tokens."""

    ids: list[int]
    start: int
    count: int
    shares: NDArray[np.float32]


def choose_pieces(pairs: Sequence[Pair], most: int = MAX_PIECES) -> list[str]:
    """The vocabulary: all characters of the sentences, and the commonest of their words."""
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for pair in pairs:
        text = plain_width(pair.chinese)
        weight = 1 if pair.kind == "caption" else _RARE["caption"]
        for start, end in segment(text):
            word = text[start:end]
            if not word.isascii():
                characters.update(word)
                words[word] += weight
    single = sorted(c for c in characters if not c.isascii())
    longer = [w for w, n in words.most_common() if len(w) > 1 and n >= _RARE["caption"]]
    return [*single, *longer[: most - len(single)]]


class Lessons:
    """The sentences as ids, aligned, and the English states that they are to give."""

    def __init__(self, pairs: Sequence[Pair], pieces: Sequence[str], english: TextEncoder, tokenizer, work: Path):  # type: ignore[no-untyped-def]
        self.chinese = ChineseTokenizer(tokenizer, pieces)
        self.first = english.words.num_embeddings
        self.pieces = list(pieces)
        said = list(dict.fromkeys(pair.english for pair in pairs))
        english_ids = {text: tokenize(tokenizer, text).ids for text in said}
        chinese_ids = [self.chinese(pair.chinese).ids for pair in pairs]
        kept = [
            i
            for i, pair in enumerate(pairs)
            if len(english_ids[pair.english]) <= MAX_TOKENS and 2 < len(chinese_ids[i]) <= MAX_TOKENS
        ]
        aligned = [(english_ids[pairs[i].english][1:-1], chinese_ids[i][1:-1]) for i in kept]
        # Words by their characters as well: so that characters start from what the words mean.
        number = {piece: self.first + i for i, piece in enumerate(pieces)}
        split = []
        for i in kept:
            if pairs[i].kind == "word" and not pairs[i].chinese.isascii():
                characters = [number[c] for c in pairs[i].chinese if c in number]
                if characters:
                    split.append((english_ids[pairs[i].english][1:-1], characters))
        alignment = Alignment([*aligned, *split])
        self.translations = alignment.translations()
        shares = alignment.by_pair()
        wanted = [text for text in said if len(english_ids[text]) <= MAX_TOKENS]
        starts = dict(zip(wanted, np.cumsum([0, *(len(english_ids[t]) for t in wanted)]).tolist(), strict=False))
        self.states = _states(english, [english_ids[t] for t in wanted], work / "states.f16")
        self.examples = [
            Example(chinese_ids[i], starts[pairs[i].english], len(english_ids[pairs[i].english]), share)
            for i, share in zip(kept, shares, strict=False)
        ]
        self.kinds = [pairs[i].kind for i in kept]
        self.same = [
            Example(
                english_ids[t], starts[t], len(english_ids[t]), np.eye(len(english_ids[t]) - 1, dtype=np.float32)[1:]
            )
            for t in wanted
            if len(english_ids[t]) > 2
        ]
        self._characters = {
            number[piece]: [number[c] for c in piece]
            for piece in pieces
            if len(piece) > 1 and all(c in number for c in piece)
        }

    def first_vectors(self, english: TextEncoder) -> Tensor:
        """What the vocabulary's vectors ``[pieces, dim]`` start from: those of the English pieces they stand for."""
        table = english.words.weight.detach()
        vectors = table.mean(0).repeat(len(self.pieces), 1)
        for id, options in self.translations.items():
            if id >= self.first:
                vectors[id - self.first] = sum(table[e] * share for e, share in options)
        return vectors

    def split_some(self, example: Example, rng: random.Random) -> Example:
        """The sentence with some words as their characters, which then learn what to say in words unknown."""
        ids, rows = [CLS], []
        for id, row in zip(example.ids[1:-1], example.shares, strict=True):
            characters = self._characters.get(id)
            parts = characters if characters and rng.random() < 0.5 else [id]
            ids += parts
            rows += [row] * len(parts)
        if len(ids) >= MAX_TOKENS:
            return example
        return Example([*ids, SEP], example.start, example.count, np.stack(rows))

    def targets(self, example: Example) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """States ``[tokens, dim]`` and their weights ``[tokens]``, and the mean state ``[dim]``."""
        states = self.states[example.start : example.start + example.count].astype(np.float32)
        weights = 1.0 - example.shares[:, NULL]
        mixed = example.shares[:, 1:] @ states[1:-1] / np.maximum(weights, 1e-3)[:, None]
        return np.concatenate([states[:1], mixed, states[-1:]]), np.concatenate([[1.0], weights, [1.0]]), states.mean(0)


@torch.no_grad()
def _states(english: TextEncoder, ids: Sequence[Sequence[int]], file: Path) -> NDArray[np.float16]:
    """The English states of all sentences, one after the other ``[tokens, dim]``; made once and kept in ``file``."""
    dim = english.words.embedding_dim
    starts = np.cumsum([0, *map(len, ids)])
    shape = (int(starts[-1]), dim)
    if file.exists() and file.stat().st_size == 2 * shape[0] * dim:
        return np.memmap(file, np.float16, "r", shape=shape)
    part = file.with_suffix(".part")
    found = np.memmap(part, np.float16, "w+", shape=shape)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    began = time.monotonic()
    for at in range(0, len(order), 128):
        batch = order[at : at + 128]
        padded, mask = pad_ids([ids[i] for i in batch])
        states = english(padded, mask).half().numpy()
        for i, one in zip(batch, states, strict=True):
            found[starts[i] : starts[i + 1]] = one[: len(ids[i])]
        if at // 128 % 100 == 0:
            _say(f"targets {at}/{len(order)} {time.monotonic() - began:.0f} s")
    found.flush()
    part.replace(file)
    return np.memmap(file, np.float16, "r", shape=shape)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def batches(lessons: Lessons, size: int, rng: random.Random) -> Iterator[list[Example]]:
    """Examples without end, those of a length together. Questions come twice as often as captions."""
    while True:
        drawn = []
        for example, kind in zip(lessons.examples, lessons.kinds, strict=True):
            if kind == "caption" and rng.random() < 0.5:
                continue
            drawn.append(lessons.split_some(example, rng) if rng.random() < _SPLIT else example)
        drawn += rng.sample(lessons.same, min(len(lessons.same), int(_ENGLISH * len(drawn))))
        rng.shuffle(drawn)
        for at in range(0, len(drawn), size * _SORTED_OVER):
            part = sorted(drawn[at : at + size * _SORTED_OVER], key=lambda example: len(example.ids))
            groups = [part[i : i + size] for i in range(0, len(part), size)]
            rng.shuffle(groups)
            yield from groups


def loss_of(
    encoder: ChineseEncoder, english: TextEncoder, lessons: Lessons, batch: Sequence[Example], spread: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """How far the states are from the English ones: of the first token, of the mean, of the words; a scalar each, as a
    share of ``spread`` ``[2]``, the English states' own variance for a single state and for means."""
    ids, mask = pad_ids([example.ids for example in batch])
    states = encoder(ids, mask, english)
    wanted = torch.zeros_like(states)
    weights = torch.zeros(mask.shape)
    means = []
    for row, example in enumerate(batch):
        target, weight, mean = lessons.targets(example)
        wanted[row, : len(target)] = torch.from_numpy(target)
        weights[row, : len(target)] = torch.from_numpy(weight.astype(np.float32))
        means.append(mean)
    far = (states - wanted).square().sum(-1)
    first = far[:, 0].mean() / spread[0]
    words = (far * weights)[:, 1:].sum() / weights[:, 1:].sum() / spread[0]
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    pooled = (mean - torch.from_numpy(np.stack(means))).square().sum(-1).mean() / spread[1]
    return first, pooled, words


def main(argv: Sequence[str] | None = None, *, say: Callable[[str], None] = _say) -> int:
    """Train, and write the encoder's files to ``--out`` at every checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    out = options.out or options.work / "weights"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)

    kept = options.work / "pairs.json"
    if not kept.exists():
        kept.write_text(json.dumps(gather(options.data, seed=options.seed), ensure_ascii=False), encoding="utf-8")
    pairs = [Pair(*row) for row in json.loads(kept.read_text(encoding="utf-8"))]
    model = load(options.model, dtype="float32")
    english = model.net.text
    checkpoint, known = options.work / "checkpoint.pt", out / VOCABULARY
    pieces = known.read_text("utf-8").split() if checkpoint.exists() and known.exists() else choose_pieces(pairs)
    lessons = Lessons(pairs, pieces, english, model.tokenizer, options.work)
    sizes = Counter(lessons.kinds)
    say(f"{len(pieces)} pieces; {dict(sizes)}; {len(lessons.translations)} translated")

    config = model.net.config
    encoder = ChineseEncoder(
        len(pieces), dim=config.dim, num_heads=config.num_heads, layers=LAYERS, max_tokens=config.max_tokens
    )
    with torch.no_grad():
        encoder.words.weight.copy_(lessons.first_vectors(english))
        encoder.positions.copy_(english.positions)
        for own, theirs in zip(encoder.layers, english.layers, strict=False):
            own.load_state_dict(theirs.state_dict())
    matrices = [*encoder.layers.parameters(), encoder.positions]
    optimiser = torch.optim.AdamW(
        [
            {"params": [encoder.words.weight], "lr": options.rate, "weight_decay": 0.0, "share": 1.0},
            {"params": matrices, "lr": options.rate / 3, "weight_decay": 0.01, "share": 1 / 3},
        ],
        betas=(0.9, 0.98),
    )
    sample = np.asarray(lessons.states[:: max(1, len(lessons.states) // 20_000)]).astype(np.float32)
    held = lessons.examples[-min(400, len(lessons.examples) // 10) :]
    means = np.stack([lessons.targets(example)[2] for example in held])
    spread = torch.tensor([float(x.var(0).sum()) for x in (sample, means)])
    held_out = {id(example) for example in held}
    keep = [i for i, example in enumerate(lessons.examples) if id(example) not in held_out]
    lessons.examples, lessons.kinds = [lessons.examples[i] for i in keep], [lessons.kinds[i] for i in keep]

    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        encoder.load_state_dict(saved["encoder"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    rng = random.Random(f"{options.seed}/{step}")  # noqa: S311
    stream = batches(lessons, options.batch, rng)
    began, since, sums = time.monotonic(), step, np.zeros(3)
    while step <= options.steps:
        if step % options.every == 0:
            with torch.no_grad():
                parts = [
                    loss_of(encoder, english, lessons, held[at : at + 50], spread) for at in range(0, len(held), 50)
                ]
            far = np.mean([[float(x) for x in three] for three in parts], 0)
            taught = sums / max(1, step - since)
            seconds = (time.monotonic() - began) / max(1, step - since)
            figures = {"step": step, "held_out": np.round(far, 4).tolist(), "taught": np.round(taught, 4).tolist()}
            say(json.dumps(figures | {"seconds": round(seconds, 3)}))
            saved = {"encoder": encoder.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            torch.save(saved, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            save_chinese(encoder, pieces, out)
            began, since, sums = time.monotonic(), step, np.zeros(3)
        if step == options.steps:
            break
        share = min(1.0, (step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimiser.param_groups:
            group["lr"] = options.rate * share * group["share"]
        first, pooled, words = loss_of(encoder, english, lessons, next(stream), spread)
        optimiser.zero_grad(set_to_none=True)
        (first + pooled + words).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 2.0)
        optimiser.step()
        sums += [float(x.detach()) for x in (first, pooled, words)]
        step += 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
