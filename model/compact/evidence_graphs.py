"""What the detector's objects say to a question, as a part of its ONNX graph: see `model.compact.objects`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.compact.colours import COLOURS
from model.compact.network import CompactNet
from model.compact.objects import COUNTS, LEAST_CHANCE, LEAST_SHARE, MOST, NEVER, SLOTS, sums_of_counts
from model.compact.onnx_tape import Step, Tape, Var


class EvidenceVars(NamedTuple):
    """See `model.compact.objects.Evidence`; ``presence`` is ``[rows, 1]``, ``meaning`` has gone through
    ``read_objects``."""

    counts: Var
    presence: Var
    colours: Var
    meaning: Var
    hues: Var


def read_evidence(tape: Tape, net: CompactNet, states: Var, own: Var, looking: Var) -> EvidenceVars:
    """See `ObjectReader.forward`. ``looking`` ``[rows, places]``."""
    reader, config = net.head.reader, net.config
    assert net.patches.seen is not None  # noqa: S101
    objects = tape.given("objects", (SLOTS, 6))
    kind = tape.reshape(tape.part(objects, 1, 0, 1), [-1], (SLOTS,))
    kind = tape.node("Cast", [kind], (SLOTS,), dtype=np.int64, to=7)
    score = tape.reshape(tape.part(objects, 1, 1, 2), [1, -1], (1, SLOTS))
    places = _cover(tape, objects, config.cells // 2)
    area = tape.plus(tape.reshape(tape.mean(places, 1), [1, -1], (1, SLOTS)), tape.fixed("number.0.01", 0.01))
    density = tape.over(tape.product(looking, tape.turned(places)), area)
    names = net.patches.seen.class_meaning.weight.T  # [classes, meaning_dim]
    read = names @ net.head.read_objects.weight.T  # of a few classes once, in place of each question's mean of them
    named = tape.node("Gather", [tape.fixed("objects.read", read), kind], (SLOTS, config.meaning_dim))
    keys = tape.node("Gather", [tape.fixed("objects.keys", names @ reader.named.weight.T), kind], (SLOTS, "width"))
    match = tape.product(
        tape.linear(states, "objects.asked", reader.asked.weight, reader.asked.bias), tape.turned(keys)
    )
    match = tape.plus(match, tape.linear(states, "objects.matters", reader.matters.weight, reader.matters.bias))
    beside = tape.node("Equal", [tape.unsqueeze(own, 2), tape.fixed("number.0.0", 0.0)], match.shape, dtype=np.bool_)
    match = tape.filled(match, beside, -1e30)
    match = tape.node("ReduceLogSumExp", [match], ("rows", SLOTS), axes=[1], keepdims=0)
    match = tape.clip(match, NEVER)
    seen = tape.clip(score, 0.01, 0.99)
    seen = tape.minus(tape.log(seen), tape.log(tape.plus(tape.times(seen, -1.0), tape.fixed("number.1.0", 1.0))))
    look = tape.log(tape.plus(density, tape.fixed("number.0.01", 0.01)))
    odds = tape.plus(match, tape.times(look, float(reader.of_look)))
    odds = tape.plus(odds, tape.times(seen, float(reader.of_score)))
    odds = tape.clip(tape.plus(odds, tape.fixed("objects.offset", reader.offset)), -MOST, MOST)
    empty = tape.node("LessOrEqual", [score, tape.fixed("number.0.0", 0.0)], score.shape, dtype=np.bool_)
    odds = tape.filled(odds, empty, NEVER)
    chance = tape.sigmoid(odds)
    none = tape.clip(tape.times(tape.sum(tape.softplus(odds), 1, keep=True), -1.0), None, -1e-6)
    # log(1 - e^n) - n, where n may be next to 0: 1 - e^n = tanh(-n / 2) (1 + e^n)
    one = tape.plus(tape.exp(none), tape.fixed("number.1.0", 1.0))
    some = tape.plus(tape.log(tape.tanh(tape.times(none, -0.5))), tape.log(one))
    presence = tape.clip(tape.plus(some, tape.times(none, -1.0)), -MOST, MOST)
    share = tape.over(chance, tape.clip(tape.sum(chance, 1, keep=True), 1.0))
    look = tape.over(looking, tape.clip(tape.sum(looking, 1, keep=True), 1e-3))
    place_colours, object_colours = (
        tape.given(name, (size, len(COLOURS)))
        for name, size in (("place_colours", "places"), ("object_colours", SLOTS))
    )
    looked_at = tape.product(look, place_colours)
    colours = tape.join([looked_at, tape.product(share, object_colours)])
    every = tape.times(tape.sum(place_colours, 0, keep=True), 1.0 / (config.cells // 2) ** 2)
    whole = tape.plus(tape.times(looked_at, 0.0), every)
    hues = tape.log(tape.plus(tape.join([looked_at, whole]), tape.fixed("number.0.01", LEAST_SHARE)))
    counts = tape.log(tape.clip(_count(tape, chance), LEAST_CHANCE))
    return EvidenceVars(counts, presence, colours, tape.product(share, named), hues)


def _cover(tape: Tape, objects: Var, cells: int) -> Var:
    """See `model.compact.objects.cover`: ``[SLOTS, cells * cells]``."""
    edges = np.arange(cells + 1, dtype=np.float32) / np.float32(cells)
    starts, ends = tape.fixed("edges.starts", edges[:-1].tolist()), tape.fixed("edges.ends", edges[1:].tolist())

    def along(low: int) -> Var:
        left, right = tape.part(objects, 1, low, low + 1), tape.part(objects, 1, low + 2, low + 3)
        shape = (SLOTS, cells)
        shared = tape.minus(tape.node("Min", [right, ends], shape), tape.node("Max", [left, starts], shape))
        return tape.times(tape.clip(shared, 0.0), float(cells))

    down, across = tape.unsqueeze(along(3), 2), tape.unsqueeze(along(2), 1)
    return tape.reshape(tape.times(down, across), [SLOTS, cells * cells], (SLOTS, cells * cells))


def _count(tape: Tape, chance: Var) -> Var:
    """See `model.compact.objects._count`: ``[rows, SLOTS]`` -> ``[rows, COUNTS]``."""
    slots = 1 << (SLOTS - 1).bit_length()
    chance = tape.longer(chance, slots)
    none = tape.plus(tape.times(chance, -1.0), tape.fixed("number.1.0", 1.0))
    # Rows are the last axis: sums over the others are then of whole vectors, on the way back too.
    flat = tape.transpose(tape.join([none, chance]), [1, 0])
    counts, size = tape.reshape(flat, [2, slots, -1], (2, slots, "rows")), 2
    while slots > 1:
        slots //= 2
        sums = sums_of_counts(size).float().T
        every = tape.product(tape.fixed(f"sums.{size}", sums), outer_halves(tape, counts))
        size = sums.shape[0]
        counts = tape.reshape(every, [size, slots, -1], (size, slots, "rows"))
    return tape.transpose(tape.reshape(counts, [COUNTS, -1], (COUNTS, "rows")), [1, 0])


def outer_halves(tape: Tape, x: Var) -> Var:
    """``[n, 2 m, columns]`` -> ``[n * n, m * columns]``: each of the first ``m`` times each of its fellow in the
    second, as one step: as several it would take half as many operators again on the way back."""
    n, double, columns = x.shape
    count, m = int(n), int(double) // 2
    halves = [f"{tape.prefix}Split.{len(tape.nodes)}.{i}" for i in range(2)]
    tape.add("Split", [x.name], *halves, axis=1)
    left = tape.node("Unsqueeze", [halves[0], tape.whole([1])], (n, 1, m, columns))
    right = tape.node("Unsqueeze", [halves[1], tape.whole([0])], (1, n, m, columns))
    every = tape.node("Mul", [left, right], (n, n, m, columns))
    made = tape.node("Reshape", [every, tape.whole([count**2, -1])], (count**2, f"{m}*{columns}"))

    def back(b: Tape, g: Var) -> Var:
        wide = b.node("Reshape", [g, b.whole([count, count, m, -1])], every.shape)
        parts = [b.sum(b.times(wide, right), 1), b.sum(b.times(wide, left), 0)]
        return b.node("Concat", parts, x.shape, axis=1)

    tape.steps.append(Step(made, [(x.name, back)]))
    return made
