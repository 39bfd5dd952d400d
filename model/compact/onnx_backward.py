"""The way back through a tape: a second graph, of the gradients, which stands inside a node of the first.

It has only what lies between the seeds (tensors whose gradient is given) and the wanted tensors, reads what was
computed on the way there, and is run only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.compact.onnx_builder import Graph
from model.compact.onnx_tape import Tape, Var

PREFIX = "back."
"""Of all names in the second graph: the first one's can be read there, so they must differ."""


def gradients(back: Tape, tape: Tape, seeds: Sequence[tuple[Var, Var]], wanted: Sequence[Var]) -> list[Var]:
    """Add to ``back`` what computes the gradients of ``wanted``, tensors of ``tape``, each in its shape. ``seeds``:
    tensors of ``tape``, each with its gradient."""
    reached = {x.name for x in wanted}  # what depends on them
    for step in tape.steps:
        if any(name in reached for name, _ in step.rules):
            reached.add(step.output.name)
    found = {x.name: gradient for x, gradient in seeds}
    for step in reversed(tape.steps):
        for name, rule in step.rules if step.output.name in found else ():
            if name in reached:
                part = rule(back, found[step.output.name])
                found[name] = back.plus(found[name], part) if name in found else part
    return [back.expand(found[x.name], x) for x in wanted]


def only_if(tape: Tape, condition: Var, back: Tape, result: Var) -> Var:
    """``result`` of ``back`` where the bool ``condition`` holds; where not, it is empty and costs nothing."""
    otherwise = Graph()
    otherwise.constant("back.nothing", np.zeros([0] * len(result.shape)), np.float32)
    otherwise.add("Identity", ["back.nothing"], "back.empty")
    then, other = back.body([result.name]), otherwise.body(["back.empty"])
    return tape.node("If", [condition], result.shape, then_branch=then, else_branch=other)
