"""Making maps, for any published family: of the pass that answered, and of a recorded second pass with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.attribution import Call, gradient_map, rollout
from model.grid_maps import place_on_grid
from model.interface import Geometry, Map, MapInfo, MapRequest, MapStep
from model.rows import Source

_HALF_SCALES = (2.0**12, 2.0**6, 1.0)  # of gradients in float16: small ones would vanish, large ones overflow


def map_info(maps: MapRequest, steps: Sequence[MapStep] = (), gates: Sequence[float] = ()) -> MapInfo:
    """How the maps of an output were made, from a request whose defaults are filled in. ``steps``: of composed maps;
    ``gates``: of layers that have one."""
    composition = ">".join([steps[0].asking, *(step.asked for step in steps)]) if steps else None
    layers, heads = maps.layers or (), maps.heads or ()
    told = {"composition": composition, "steps": tuple(steps), "gates": tuple(gates)}
    return MapInfo(maps.kind or "raw", layers, **told, heads=heads)  # type: ignore[arg-type]


def to_maps(rows: Tensor, geometry: Geometry, first_patch: int, *, whole: bool) -> list[Map]:
    """Maps of ``rows`` ``[tokens, keys]``; see `place_on_grid`. ``whole``: ``elsewhere`` is what the
    grid lacks to 1; otherwise it is the sum of the keys outside the grid (BLIP's class token)."""
    return place_on_grid(rows.float().cpu().numpy(), geometry, first_patch, total=1.0 if whole else None)


def forward_map(maps: Sequence[Tensor], self_maps: Sequence[Tensor], request: MapRequest) -> Tensor:
    """The ``raw`` or ``rollout`` map ``[rows, tokens, keys]`` of a pass that kept, for each layer, its cross-attention
    ``[rows, tokens, keys]`` and self-attention ``[rows, tokens, tokens]``. ``request`` has its defaults filled in."""
    chosen = request.layers or ()
    if request.kind == "rollout":
        return rollout(self_maps, [m if i in chosen else None for i, m in enumerate(maps)])
    return torch.stack([maps[layer] for layer in chosen]).mean(0)


class GradientPass:
    """Gradient maps of one recorded pass over ``sources``, for as many scalars as wanted.

    ``calls``: for each chosen layer one call per source, in order. Gradients add up exactly, so the map of a sum of
    scalars needs no backward pass of its own.
    """

    def __init__(self, calls: list[list[Call]], layers: Sequence[int], sources: Sequence[Source]) -> None:
        self.calls, self.layers, self.sources = calls, layers, sources
        self._scales = _HALF_SCALES if calls[0][0].attended.dtype == torch.float16 else (1.0,)

    def backward(self, scalar: Tensor) -> list[Tensor]:
        """The gradient of ``scalar`` (shape ``[]``) at every call's attended values ``[count, rows * tokens, heads *
        head_dim]``, in float32.

        In float16 each value comes from the largest scale at which it does not overflow, so texts with large gradients
        cost those with small ones no precision.
        """
        first, *smaller = self._scales
        gradients = self._scaled(scalar, first)
        for scale in smaller:
            if all(gradient.isfinite().all() for gradient in gradients):
                break
            again = self._scaled(scalar, scale)
            gradients = [torch.where(g.isfinite(), g, a) for g, a in zip(gradients, again, strict=True)]
        return gradients

    def _scaled(self, scalar: Tensor, scale: float) -> list[Tensor]:
        """The gradients in float32, from a pass backward that holds them times ``scale``."""
        attended = [call.attended for calls in self.calls for call in calls]
        found = torch.autograd.grad(scalar * scale, attended, retain_graph=True)
        return [gradient.float() / scale for gradient in found]

    def maps(self, gradients: Sequence[Tensor]) -> Tensor:
        """``[rows, tokens, keys]``: the mean over the layers, from gradients of `backward` (or their sum)."""
        remaining = iter(gradients)
        layers = []
        for layer, calls in zip(self.layers, self.calls, strict=True):
            parts = []
            for call, source in zip(calls, self.sources, strict=True):
                found = gradient_map(call.queries.detach(), next(remaining), source.layers[layer], mask=source.mask)
                parts.append(found.reshape(source.count * source.rows, -1, found.shape[-1]))
            layers.append(torch.cat(parts))
        return torch.stack(layers).mean(0)
