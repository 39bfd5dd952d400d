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

from model.compact.image_networks import open_session
from model.compact.network import CompactNet, Fused, ImageState, own_tokens
from model.compact.question_graphs import SEEDS, fusion_tape, map_tape, text_tape
from model.compact.token_maps import MapRows, shares

Images = Sequence[tuple[ImageState, int]]
_Arrays = dict[str, NDArray[Any]]


class _Passes(NamedTuple):
    """The fusion's two sessions, and names of tensors: ``fused`` are vector and fit, ``maps`` those of each layer,
    ``kept`` what the way ``back`` reads of the way there; it reads ``read`` and gives ``products`` (see `map_tape`)."""

    there: Any
    back: Any
    fused: list[str]
    maps: list[str]
    kept: list[str]
    read: list[str]
    products: list[str]


class OnnxQuestions:
    """Made of a net's weights as they are when it is first used; it knows images, so the net may not be ``blind``."""

    def __init__(self, net: CompactNet) -> None:
        self._net = net

    def build(self) -> None:
        """Make the sessions now: after it, the net's text layers may go."""
        _ = self._text, self._passes

    @cached_property
    def _text(self) -> tuple[Any, str]:
        """The session, and the name of the states."""
        tape, states = text_tape(self._net)
        return open_session(tape.model([states.name])), states.name

    @cached_property
    def _passes(self) -> _Passes:
        fusion = fusion_tape(self._net)
        back, read, products = map_tape(fusion)
        fused, maps = [fusion.vector.name, fusion.fit.name], [found.name for found in fusion.maps]
        kept = [name for name in read if name not in (*fusion.tape.inputs, *SEEDS, *maps)]
        there = open_session(fusion.tape.model([*fused, *maps, *kept]))
        return _Passes(there, open_session(back.model(products)), fused, maps, kept, read, products)

    def __deepcopy__(self, memo: dict[int, object]) -> OnnxQuestions:
        """Of the copy of the net, whose weights may change before it is used."""
        return OnnxQuestions(deepcopy(self._net, memo))

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`TextEncoder.forward`: ``[rows, tokens]`` -> ``[rows, tokens, dim]``."""
        session, name = self._text
        (states,) = session.run([name], {"ids": ids.numpy(), "mask": mask.float().numpy()})
        return torch.from_numpy(states)

    def fuse(self, states: Tensor, mask: Tensor, images: Images, *, need_maps: bool = False) -> Fused:
        """`CompactNet.fuse_states`, from text features ``[rows, tokens, dim]`` on."""
        passes = self._passes
        names = [*passes.fused, *(passes.maps if need_maps else [])]
        found = [passes.there.run(names, given) for given in _by_image(states, mask, images)]
        vector, fit, *maps = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*found, strict=True))
        return Fused(vector, fit[:, 0], maps)

    def gradient_rows(
        self,
        states: Tensor,
        mask: Tensor,
        images: Images,
        layers: Sequence[int],
        gradients: Callable[[Fused], Sequence[tuple[Tensor, Tensor]]],
    ) -> tuple[Fused, MapRows]:
        """`model.compact.token_maps.gradient_rows`. ``gradients``: of the score, by ``vector`` and ``fit``, some
        rows at a time."""
        passes = self._passes
        names = [*passes.fused, *passes.maps, *passes.kept]
        found, counts = [], []
        for one in _by_image(states, mask, images):
            counts.append(len(one["mask"]))
            values = _values(one)  # what goes from session to session is not copied out and in
            found.append(values | dict(zip(names, passes.there.run_with_ort_values(names, values), strict=True)))
        vector, fit = (torch.from_numpy(np.concatenate([one[name].numpy() for one in found])) for name in passes.fused)
        fused = Fused(vector, fit[:, 0], [])
        of_vector, of_fit = (torch.cat(parts).numpy() for parts in zip(*gradients(fused), strict=True))
        rows, products = 0, []
        for count, values in zip(counts, found, strict=True):
            part = slice(rows, rows := rows + count)
            values |= _values(dict(zip(SEEDS, (of_vector[part], of_fit[part, None]), strict=True)))
            feeds = {name: values[name] for name in passes.read}
            products.append([made.numpy() for made in passes.back.run_with_ort_values(passes.products, feeds)])
        tokens, answers = [], []
        for layer in layers:
            tokens.append(np.concatenate([one[2 * layer] for one in products]))
            answers.append(np.concatenate([one[2 * layer + 1] for one in products]))
        token, answer = (shares(torch.from_numpy(np.sqrt(sum(found)))) for found in (tokens, answers))
        return fused, MapRows(token, answer)


def _values(arrays: _Arrays) -> dict[str, Any]:
    """Arrays as ONNX Runtime's own tensors, in the same memory."""
    from onnxruntime import OrtValue

    return {name: OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}


def _by_image(states: Tensor, mask: Tensor, images: Images) -> Iterator[_Arrays]:
    """The inputs of `fusion_tape` for each image."""
    weights, own, start = mask.float(), own_tokens(mask).float(), 0
    for state, rows in images:
        for index in range(len(state.meaning)):
            part = slice(start, start + rows)
            start = part.stop
            given = {"states": states[part], "mask": weights[part], "own": own[part]}
            for layer, (keys, values) in enumerate(state.layers):
                given |= {f"keys.{layer}": keys[index], f"values.{layer}": values[index]}
            given |= {"meaning": state.meaning[index], "places": state.places[index]}
            if state.objects is not None:
                objects, colours, places = (x[index] for x in state.objects)
                given |= {"objects": objects, "object_colours": colours, "place_colours": places}
            yield {name: tensor.numpy() for name, tensor in given.items()}
