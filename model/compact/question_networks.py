"""What a question goes through, by ONNX Runtime on a CPU: the text layers, the fusion, and back through it for gradient
maps.

The numbers are those of `model.compact.network`, in float32. Most of PyTorch's time there goes into starting a few
thousand small operations, and for maps into keeping a graph of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compact.answers import Choices
from model.compact.image_networks import open_session
from model.compact.network import CompactNet, Fused, ImageState, own_tokens
from model.compact.question_graphs import fusion_tape, text_tape
from model.compact.token_maps import MapRows


class Asked(NamedTuple):
    """What is asked of one image, whose ``state`` has no others: by ``rows`` texts, in the order of the batch, whose
    answers are ``choices`` at the ``temperatures`` ``[rows]``; ``raised`` ``[rows]``: see `AnswerSpace.raised`. Without
    choices texts are matched."""

    state: ImageState
    rows: int
    choices: Choices | None
    temperatures: Tensor
    raised: Tensor


class Found(NamedTuple):
    """``fused`` of all rows, the ``logits`` ``[rows, choices]`` of what was asked of each image (None where texts were
    matched), and the gradient maps, where these were wanted."""

    fused: Fused
    logits: list[Tensor | None]
    rows: MapRows | None = None


class _Pass(NamedTuple):
    """The fusion's session, and names of tensors in it (see `FusionTape`)."""

    session: Any
    vector: str
    fit: str
    logits: str
    maps: list[str]
    shown: str


class OnnxQuestions:
    """Made of a net's weights as they are when it is first used; it knows images, so the net may not be ``blind``."""

    def __init__(self, net: CompactNet) -> None:
        self._net = net

    def build(self, forget_text: Callable[[], object]) -> None:
        """Make the sessions now. ``forget_text`` is called once the net's text layers are no longer read, before ONNX
        Runtime makes its own copies of their weights."""
        graph, states = self._text_graph()
        forget_text()
        self._text = open_session(graph), states
        _ = self._pass

    def _text_graph(self) -> tuple[bytes, str]:
        tape, states = text_tape(self._net)
        return tape.model([states.name]), states.name

    @cached_property
    def _text(self) -> tuple[Any, str]:
        """The session, and the name of the states."""
        graph, states = self._text_graph()
        return open_session(graph), states

    @cached_property
    def _pass(self) -> _Pass:
        tape, vector, fit, logits, maps, shown = fusion_tape(self._net)
        names = (vector.name, fit.name, logits.name, [found.name for found in maps], shown.name)
        return _Pass(open_session(tape.model([*names[:3], *names[3], names[4]])), *names)

    def __deepcopy__(self, memo: dict[int, object]) -> OnnxQuestions:
        """Of the copy of the net, whose weights may change before it is used."""
        return OnnxQuestions(deepcopy(self._net, memo))

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`TextEncoder.forward`: ``[rows, tokens]`` -> ``[rows, tokens, dim]``."""
        session, name = self._text
        (states,) = session.run([name], {"ids": ids.numpy(), "mask": mask.float().numpy()})
        return torch.from_numpy(states)

    def fuse(
        self,
        states: Tensor,
        mask: Tensor,
        asked: Sequence[Asked],
        *,
        need_maps: bool = False,
        gradient_of: Sequence[int] | None = None,
    ) -> Found:
        """`CompactNet.fuse_states`, from text features ``[rows, tokens, dim]`` on, and the answers' logits.
        ``need_maps``: with the maps of each layer. ``gradient_of``: with gradient maps of these layers (see
        `model.compact.token_maps.gradient_rows`)."""
        session, vector, fit, logit, maps, shown = self._pass
        names = [vector, fit, logit, *(maps if need_maps else []), *([] if gradient_of is None else [shown])]
        layers = [float(index in (gradient_of or ())) for index in range(len(self._net.fusion.layers))]
        only = {"layers": np.array(layers, np.float32), "need_gradient": np.array(gradient_of is not None)}
        given = _by_image(states, mask, asked, self._net.head.unseen.out_features)
        runs = [session.run(names, one | only) for one in given]
        logits = [
            None if one.choices is None else torch.from_numpy(run[2]) for one, run in zip(asked, runs, strict=True)
        ]
        vectors, fits, *more = (_joined([run[i] for run in runs]) for i in range(len(names)) if i != 2)
        fused = Fused(vectors, fits[:, 0], more[: len(maps)] if need_maps else [])
        return Found(fused, logits, None if gradient_of is None else MapRows(more[-1]))


def _joined(parts: Sequence[NDArray[np.float32]]) -> Tensor:
    """Results of several images, one behind the other."""
    return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _by_image(states: Tensor, mask: Tensor, asked: Sequence[Asked], width: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The inputs of `fusion_tape` for each image, but ``layers``. ``width``: of an answer's vector."""
    weights, own, start = mask.float(), own_tokens(mask).float(), 0
    first = torch.zeros_like(own)
    first[:, 0] = 1.0
    lookers = torch.stack([first, own / own.sum(1, keepdim=True).clamp_min(1.0)], 1)
    for state, rows, choices, temperatures, raised in asked:
        part = slice(start, start := start + rows)
        given = {"states": states[part], "mask": weights[part], "own": own[part], "lookers": lookers[part]}
        for layer, (keys, values) in enumerate(state.layers):
            given |= {f"keys.{layer}": keys[0], f"values.{layer}": values[0]}
        given |= {"meaning": state.meaning[0], "places": state.places[0]}
        if state.objects is not None:
            objects, colours, places = (x[0] for x in state.objects)
            given |= {"objects": objects, "object_colours": colours, "place_colours": places}
        given |= {"temperatures": temperatures[:, None], "raised": raised[:, None]}
        given["of_fit"] = given["mask"].new_full((rows, 1), choices is None)
        if choices is None:
            nothing = temperatures.new_zeros(1)
            given |= {"answers": temperatures.new_zeros(1, width), "biases": nothing, "yes_no": nothing}
        else:
            given |= {"answers": choices.vectors, "biases": choices.biases, "yes_no": choices.yes_no}
        yield {name: tensor.numpy() for name, tensor in given.items()}
