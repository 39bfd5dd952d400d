"""What a question goes through, as ONNX graphs: the text layers, and `CompactNet.fuse_states` over one image.

The second goes back, too, for gradient maps: from the odds of the answer to the attention scores of each fusion layer,
and nowhere else. Without such maps that part is left out when the graph is run. See `model.compact.token_maps` for what
the maps are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.config import CompactConfig
from model.compact.evidence_graphs import EvidenceVars, read_evidence
from model.compact.fusion import FusionLayer, GatherLayer
from model.compact.network import FIRST_PATCH, CompactNet
from model.compact.onnx_backward import PREFIX, gradients, only_if
from model.compact.onnx_tape import Tape, Var
from model.compact.text_encoder import TextLayer


class FusionTape(NamedTuple):
    """The tape, and what can be had of it: ``vector`` ``[rows, n]``, ``fit`` ``[rows, 1]``, the answers' ``logits``
    ``[rows, names]``, the ``maps`` ``[rows, tokens, keys]`` of each layer, and ``shown`` ``[rows, tokens + 1, keys]``:
    gradient maps of the tokens, and last of the answer."""

    tape: Tape
    vector: Var
    fit: Var
    logits: Var
    maps: list[Var]
    shown: Var


def text_tape(net: CompactNet) -> tuple[Tape, Var]:
    """Of `TextEncoder.forward`, from ``ids`` (int64) and ``mask`` (float32, 1 for a token) ``[rows, tokens]``."""
    tape, text = Tape(), net.text
    ids = tape.given("ids", ("rows", "tokens"), np.int64)
    bias = _attention_bias(tape)
    dim = text.words.weight.shape[1]
    shape = ("rows", "tokens", dim)
    x = tape.node("Gather", [tape.fixed("words", text.words.weight), ids], shape)
    count = tape.node("Slice", [tape.shape_of(ids), tape.whole([1]), tape.whole([2])], (1,), dtype=np.int64)
    places = tape.node("Slice", [tape.fixed("positions", text.positions), tape.whole([0]), count], ("tokens", dim))
    x = tape.layer_norm(tape.plus(x, places), "norm", text.norm)
    for index, layer in enumerate(text.layers):
        assert isinstance(layer, TextLayer)  # noqa: S101
        x = _feed_forward(tape, f"layers.{index}", layer, _attend(tape, f"layers.{index}", layer, x, x, bias))
    return tape, x


def _attention_bias(tape: Tape) -> Var:
    """0 for a token and -inf for padding, ``[rows, 1, 1, tokens]``."""
    mask = tape.given("mask", ("rows", "tokens"))
    wide = tape.unsqueeze(tape.unsqueeze(mask, 1), 1)
    padding = tape.node("Equal", [wide, tape.fixed("number.0.0", 0.0)], wide.shape, dtype=np.bool_)
    return tape.filled(tape.times(wide, 0.0), padding, -math.inf)


def _attend(tape: Tape, name: str, layer: TextLayer, asking: Var, x: Var, bias: Var) -> Var:
    """See `TextLayer.attend`."""
    dim, heads = int(x.shape[-1]), layer.num_heads

    def split(linear: str, source: Var) -> Var:
        module = getattr(layer, linear)
        made = tape.linear(source, f"{name}.{linear}", module.weight, module.bias)
        shape = (*source.shape[:2], heads, dim // heads)
        return tape.transpose(tape.reshape(made, [0, 0, heads, dim // heads], shape), [0, 2, 1, 3])

    queries, keys, values = split("query", asking), split("key", x), split("value", x)
    scores = tape.times(tape.product(queries, tape.turned(keys)), (dim // heads) ** -0.5)
    attended = tape.product(tape.softmax(tape.plus(scores, bias)), values)
    merged = tape.reshape(tape.transpose(attended, [0, 2, 1, 3]), [0, 0, dim], asking.shape)
    output = tape.linear(merged, f"{name}.output", layer.output.weight, layer.output.bias)
    return tape.layer_norm(tape.plus(asking, output), f"{name}.self_norm", layer.self_norm)


def _feed_forward(tape: Tape, name: str, layer: TextLayer, x: Var) -> Var:
    """See `TextLayer.feed_forward`."""
    wide = tape.gelu(tape.linear(x, f"{name}.expand", layer.expand.weight, layer.expand.bias))
    output = tape.linear(wide, f"{name}.contract", layer.contract.weight, layer.contract.bias)
    return tape.layer_norm(tape.plus(x, output), f"{name}.feed_forward_norm", layer.feed_forward_norm)


def fusion_tape(net: CompactNet) -> FusionTape:
    """Of `CompactNet.fuse_states` without ``patch_mask``, for the rows that ask one image, all of its patches.

    Inputs, float32: ``states`` ``[rows, tokens, dim]``; ``mask`` and ``own`` (see `own_tokens`) ``[rows, tokens]``, 1
    for a token; ``lookers`` ``[rows, 2, tokens]``, the first token, and the share of each of the text's own tokens in
    their mean; ``keys.0``, ``values.0`` and so on ``[heads, keys, head_dim]``; ``meaning``, ``places``, and of a net
    with a detector ``objects``, ``object_colours`` and ``place_colours``, as in `ImageState`, without the axis of
    images; ``raised`` ``[rows, 1]`` and ``yes_no`` ``[names]``, which tell the answer that gradient maps explain (see
    `model.compact.answers.log_odds`). See `_logits` and `_shown` for the others.
    """
    tape, config = Tape(), net.config
    states = tape.given("states", ("rows", "tokens", config.dim))
    bias, mask = _attention_bias(tape), Var("mask", ("rows", "tokens"))
    own = tape.given("own", ("rows", "tokens"))
    x = tape.linear(states, "narrow", net.narrow.weight, net.narrow.bias)
    scores, maps = [], []
    for index, layer in enumerate(net.fusion.layers):
        assert isinstance(layer, FusionLayer)  # noqa: S101
        name = f"fusion.{index}"
        x = _attend(tape, name, layer, x, x, bias)
        crossed, score, looking = _cross(tape, index, layer, x, mask)
        x = _feed_forward(tape, name, layer, tape.plus(x, crossed))
        scores.append(score)
        maps.append(looking)
    first = _feed_forward(tape, "gather", net.fusion.gather, _gather(tape, net.fusion.gather, x, bias))
    fused = tape.reshape(first, [0, config.fusion_dim], ("rows", config.fusion_dim))
    asked = _mean_over(tape, states, mask)
    looks = [tape.product(tape.given("lookers", ("rows", 2, "tokens")), found) for found in maps]
    half = config.cells // 2
    both = tape.product(looks[-1], tape.fixed("pooling", _pooling(config)))
    answering, looking = (tape.reshape(tape.part(both, 1, i, i + 1), [0, half**2], ("rows", half**2)) for i in range(2))
    meaning = tape.given("meaning", ("places", config.meaning_dim))
    matching = net.matching
    matched = tape.product(looking, tape.given("places", ("places", config.match_dim)))
    said = tape.normalized(tape.linear(asked, "matching.text", matching.text.weight, matching.text.bias))
    cosine = tape.sum(tape.times(said, tape.normalized(matched)), 1, keep=True)
    fit = tape.plus(tape.times(cosine, float(matching.scale)), tape.fixed("matching.offset", matching.offset))
    evidence = read_evidence(tape, net, states, own, looking) if config.detector_channels else None
    vector = _vector(tape, net, fused, asked, tape.product(answering, meaning), fit, evidence)
    logits = _logits(tape, vector)
    tape.given("raised", ("rows", 1))
    tape.given("yes_no", ("names",))
    back = Tape(PREFIX)
    seeds = [(vector, _of_vector(back, vector, logits)), (fit, tape.given("of_fit", ("rows", 1)))]
    layers = tape.given("layers", (len(maps),))
    shown = _shown(back, gradients(back, tape, seeds, scores), maps, looks, mask, layers)
    shown = only_if(tape, tape.given("need_gradient", (), np.bool_), back, shown)
    return FusionTape(tape, vector, fit, logits, maps, shown)


def _cross(tape: Tape, index: int, layer: FusionLayer, x: Var, mask: Var) -> tuple[Var, Var, Var]:
    """The cross-attention of a layer: its output ``[rows, tokens, dim]``, the scores, and the map."""
    cross, name = layer.cross, f"fusion.{index}.cross"
    heads, width = cross.num_heads, cross.head_dim
    keys, values = (tape.given(f"{kind}.{index}", (heads, "keys", width)) for kind in ("keys", "values"))
    asking = tape.linear(
        tape.layer_norm(x, f"{name}.norm", layer.cross_norm), f"{name}.q", cross.wq.weight, cross.wq.bias
    )
    queries = tape.transpose(tape.reshape(asking, [-1, heads, width], ("all", heads, width)), [1, 0, 2])
    scores = tape.times(tape.product(queries, tape.turned(keys)), width**-0.5)
    probabilities = tape.softmax(scores)
    attended = tape.transpose(tape.product(probabilities, values), [1, 0, 2])  # [rows * tokens, heads, width]
    merged = tape.reshape(attended, [0, heads * width], ("all", heads * width))
    output = tape.linear(merged, f"{name}.o", cross.o.weight, cross.o.bias)
    mean = tape.mean_of_heads(probabilities)
    return tape.reshape(output, tape.shape_of(x), x.shape), scores, _by_row(tape, mean, mask)


def _gather(tape: Tape, layer: GatherLayer, x: Var, bias: Var) -> Var:
    """The first half of `GatherLayer.forward`. Only the first token asks, so the projections to keys and values are
    moved to its side: ``q (W x) = (q W) x``, and ``sum(p W x) = W sum(p x)``. The keys' bias is the same for all
    tokens, so it changes nothing."""
    dim, heads = int(x.shape[-1]), layer.num_heads
    width, first = dim // heads, tape.part(x, 1, 0, 1)
    queries = tape.times(tape.linear(first, "gather.query", layer.query.weight, layer.query.bias), width**-0.5)
    queries = tape.transpose(tape.reshape(queries, [-1, heads, width], ("rows", heads, width)), [1, 0, 2])
    by_head = layer.key.weight.view(heads, width, dim)
    asking = tape.transpose(tape.product(queries, tape.fixed("gather.key", by_head)), [1, 0, 2])  # [rows, heads, dim]
    padding = tape.node("Squeeze", [bias, tape.whole([1])], ("rows", 1, "tokens"))
    chances = tape.softmax(tape.plus(tape.product(asking, tape.turned(x)), padding))
    found = tape.transpose(tape.product(chances, x), [1, 0, 2])  # [heads, rows, dim]
    by_head = layer.value.weight.view(heads, width, dim).transpose(1, 2)
    values = tape.transpose(tape.product(found, tape.fixed("gather.value", by_head)), [1, 0, 2])
    merged = tape.plus(
        tape.reshape(values, [0, 1, dim], first.shape), tape.fixed("gather.value.bias", layer.value.bias)
    )
    output = tape.linear(merged, "gather.output", layer.output.weight, layer.output.bias)
    return tape.layer_norm(tape.plus(first, output), "gather.self_norm", layer.self_norm)


def _by_row(tape: Tape, x: Var, mask: Var) -> Var:
    """``[.., rows * tokens, keys]`` -> ``[.., rows, tokens, keys]``."""
    before = x.shape[:-2]
    sizes = [tape.whole([0] * len(before)), tape.shape_of(mask), tape.whole([-1])]
    shape = tape.node("Concat", sizes[0 if before else 1 :], (len(before) + 3,), axis=0, dtype=np.int64)
    return tape.reshape(x, shape, (*before, "rows", "tokens", x.shape[-1]))


def _mean_over(tape: Tape, x: Var, mask: Var) -> Var:
    """See `model.compact.network.mean_over`."""
    total = tape.sum(tape.times(x, tape.unsqueeze(mask, 2)), 1)
    return tape.over(total, tape.clip(tape.sum(mask, 1, keep=True), 1.0))


def _pooling(config: CompactConfig) -> Tensor:
    """See `CompactNet._at_places`: which coarse place each key is in, ``[keys, places]``."""
    cells, half = config.cells, config.cells // 2
    places = torch.arange(half * half).view(half, half).repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = torch.zeros(FIRST_PATCH + cells * cells, half * half)
    found[FIRST_PATCH:] = F.one_hot(places.flatten(), half * half)
    return found


def _vector(
    tape: Tape, net: CompactNet, fused: Var, asked: Var, looked_at: Var, fit: Var, evidence: EvidenceVars | None
) -> Var:
    """See `AnswerHead.vector`."""
    head, config = net.head, net.config
    said = tape.layer_norm(asked, "said")
    read = tape.linear(looked_at, "head.read", head.read.weight, head.read.bias)
    yes = _sequence(tape, "head.yes_from_text", head.yes_from_text, asked)
    of_fit = tape.linear(said, "head.yes_from_fit", head.yes_from_fit.weight, head.yes_from_fit.bias)
    yes = tape.plus(yes, tape.times(of_fit, fit))
    counts = []
    if evidence is not None:
        gates = tape.linear(said, "head.gates", head.gates.weight, head.gates.bias)
        colours = tape.linear(evidence.colours, "head.read_colours", head.read_colours.weight)
        read = tape.plus(read, tape.times(tape.sigmoid(tape.part(gates, 1, 0, 1)), colours))
        read = tape.plus(read, tape.times(tape.sigmoid(tape.part(gates, 1, 1, 2)), evidence.meaning))
        if head.hues:
            gate = tape.sigmoid(tape.linear(said, "head.hue_gate", head.hue_gate.weight, head.hue_gate.bias))
            hues = tape.linear(evidence.hues, "head.read_hues", head.read_hues.weight, head.read_hues.bias)
            read = tape.plus(read, tape.times(gate, hues))
        counts = [tape.times(tape.part(gates, 1, 2, 3), evidence.counts)]
        seen = tape.join([evidence.colours, tape.exp(evidence.counts), tape.times(evidence.presence, 0.25)])
        fused = tape.plus(fused, tape.linear(seen, "head.evidence", head.evidence.weight, head.evidence.bias))
        of_objects = tape.linear(
            said, "head.yes_from_objects", head.yes_from_objects.weight, head.yes_from_objects.bias
        )
        yes = tape.plus(yes, tape.times(of_objects, evidence.presence))
    whole = _sequence(tape, "head.fused", head.fused, tape.join([fused, asked]))
    meant = tape.plus(tape.part(whole, 1, 0, config.meaning_dim), read)
    return tape.join([meant, tape.part(whole, 1, config.meaning_dim), yes, *counts])


def _sequence(tape: Tape, name: str, modules: nn.Sequential, x: Var) -> Var:
    """Norms, linear layers and GELU; dropout does nothing here."""
    for index, module in enumerate(modules):
        if isinstance(module, nn.LayerNorm):
            x = tape.layer_norm(x, f"{name}.{index}", module)
        elif isinstance(module, nn.Linear):
            x = tape.linear(x, f"{name}.{index}", module.weight, module.bias)
        elif isinstance(module, nn.GELU):
            x = tape.gelu(x)
    return x


def _logits(tape: Tape, vector: Var) -> Var:
    """The answers' logits. Inputs: ``answers`` ``[names, n]``, ``biases`` ``[names]``, and ``temperatures`` ``[rows,
    1]``."""
    answers = tape.given("answers", ("names", vector.shape[-1]))
    biases, temperatures = tape.given("biases", ("names",)), tape.given("temperatures", ("rows", 1))
    return tape.over(tape.plus(tape.product(vector, tape.turned(answers)), biases), temperatures)


def _of_vector(back: Tape, vector: Var, logits: Var) -> Var:
    """The gradient with respect to ``vector`` of what `model.compact.answers.log_odds` describes. See `fusion_tape`
    for ``raised`` and ``yes_no``."""
    raised = back.plus(logits, back.times(Var("raised", ("rows", 1)), Var("yes_no", ("names",))))
    index = back.node("ArgMax", [raised], ("rows",), dtype=np.int64, axis=-1, keepdims=0)
    ends = back.fixed("back.ends", [0.0, 1.0])
    best = back.node("OneHot", [index, back.shape_of(Var("biases", ("names",))), ends], logits.shape)
    is_best = back.node("Equal", [best, back.fixed("back.number.1.0", 1.0)], logits.shape, dtype=np.bool_)
    others = back.times(back.softmax(back.filled(logits, is_best, -1e30)), -1.0)
    of_logits = back.over(back.filled(others, is_best, 1.0), Var("temperatures", ("rows", 1)))
    return back.product(of_logits, Var("answers", ("names", vector.shape[-1])))


def _shown(
    back: Tape, changes: Sequence[Var], maps: Sequence[Var], looks: Sequence[Var], mask: Var, layers: Var
) -> Var:
    """Gradient maps (see `model.compact.token_maps`) from the gradients of the scores: of those that are 1 in
    ``layers`` ``[layers]``."""
    tokens, answer = None, None
    for index, (change, looking, look) in enumerate(zip(changes, maps, looks, strict=True)):
        own = back.reshape(back.part(look, 1, 1, 2), [0, -1], ("rows", "keys"))
        each = back.times(_by_row(back, back.mean_of_heads(back.relu(change)), mask), looking)
        whole = back.times(back.mean_of_heads(back.relu(back.sum(_by_row(back, change, mask), 2))), own)
        if len(changes) > 1:
            weight = back.part(layers, 0, index, index + 1)
            each, whole = back.times(each, weight), back.times(whole, weight)
        tokens = each if tokens is None else back.plus(tokens, each)
        answer = whole if answer is None else back.plus(answer, whole)
    assert tokens is not None and answer is not None  # noqa: S101, PT018
    shape = ("rows", "tokens+1", "keys")
    rows = back.node("Concat", [tokens, back.unsqueeze(answer, 1)], shape, axis=1)
    rows = back.node("Sqrt", [rows], shape)
    least = back.fixed("back.least", float(np.finfo(np.float32).tiny))
    return back.node("Div", [rows, back.node("Max", [back.sum(rows, 2, keep=True), least], shape)], shape)
