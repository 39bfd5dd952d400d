"""The sizes of the default model's network, as its ``config.json`` has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from model.compact.detector import CHANNELS
from model.interface import MapKind, QuestionKind
from model.question_kinds import QUESTION_KINDS, question_kind

MAP_KINDS: tuple[MapKind, ...] = ("raw", "gradient", "rollout")


@dataclass(frozen=True, slots=True)
class CompactConfig:
    """Sizes of the network. ``size`` is the side of the square input in pixels; the grid has a cell for 16 of them."""

    vision: str = "lite2"
    size: int = 320
    dim: int = 384
    """Width of the text encoder."""
    num_heads: int = 12
    text_layers: int = 6
    fusion_dim: int = 256
    fusion_heads: int = 8
    fusion_layers: int = 1
    cross_heads: int = 8
    cross_dim: int = 256
    """Width of the queries, keys and values of all cross-attention heads together."""
    patch_dim: int = 256
    max_tokens: int = 64
    meaning_dim: int = 384
    free_dim: int = 64
    """How much of an answer's vector is learned freely: *yes* and *no*, or *2* and *3*, mean much the same."""
    match_dim: int = 128
    detector: str = ""
    """A variant of `model.compact.detector`; empty: a network without detector, objects and colours."""
    detector_size: int = 416
    """Side of the square input of the detector, in pixels: a multiple of 32."""
    hues: bool = False
    """With a detector: whether it has learned to read colours from how much more of each there is where the words look
    than in the whole image."""
    matches: bool = False
    """Whether it has learned how well a text fits an image."""
    blind: bool = False
    """A question-only twin: the null key is all there is to attend to, so it has no maps."""
    temperature: float = 1.0
    """Divides the logits; fitted after training."""
    temperatures: Mapping[QuestionKind, float] = field(default_factory=dict)
    """The same for kinds of questions, where one was fitted."""
    yes_no_temperature: float | None = None
    """Where the wording asks for *yes* or *no*, these two share nearly the whole score, their logits divided by this;
    None: such questions are as others. Maps tell the answer from all others either way."""
    default_map_kind: MapKind = "raw"
    """What is shown where a request names no kind: one of `MAP_KINDS`, the one that is worth most (docs/maps.md)."""
    default_map_layers: tuple[int, ...] | None = None
    """The fusion layers whose maps are averaged where a request names none; None: all."""

    def __post_init__(self) -> None:
        """Raises ValueError for figures that no network can have, and for default maps that there are none of."""
        for name, width in (("num_heads", "dim"), ("fusion_heads", "fusion_dim"), ("cross_heads", "cross_dim")):
            heads = getattr(self, name)
            if heads < 1 or getattr(self, width) % heads:
                raise ValueError(f"{name} divides {width} ({getattr(self, width)}), {heads} does not")
        if self.size < 32 or self.size % 32:
            raise ValueError(f"size is a multiple of 32, not {self.size}")
        of_yes_no = () if self.yes_no_temperature is None else (self.yes_no_temperature,)
        for temperature in (self.temperature, *self.temperatures.values(), *of_yes_no):
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(f"temperature is a number above 0, not {temperature}")
        if unknown := self.temperatures.keys() - set(QUESTION_KINDS):
            raise ValueError(f"temperatures are of {', '.join(QUESTION_KINDS)}, not of {', '.join(sorted(unknown))}")
        if self.default_map_kind not in MAP_KINDS:
            raise ValueError(f"default_map_kind is one of {', '.join(MAP_KINDS)}, not {self.default_map_kind!r}")
        if self.default_map_layers is not None:
            layers = tuple(sorted(set(self.default_map_layers)))  # JSON has lists
            if not layers or not set(layers) <= set(range(self.fusion_layers)):
                raise ValueError(f"default_map_layers names layers of {self.fusion_layers}, from 0, not {layers}")
            object.__setattr__(self, "default_map_layers", layers)

    def temperature_of(self, question: str) -> float:
        """What divides the logits of the answers to a question."""
        return self.temperatures.get(question_kind(question), self.temperature)

    @property
    def pixels(self) -> int:
        """Side of the square image that the network takes: the larger one of what its image networks take."""
        return max(self.size, self.detector_size) if self.detector else self.size

    @property
    def detector_channels(self) -> int:
        """Of the features that the detector gives; 0 without one."""
        return CHANNELS[self.detector] if self.detector else 0

    @property
    def cells(self) -> int:
        """Rows (and columns) of the patch grid."""
        return self.size // 16
