"""From a model's name to a loaded model: the one place that knows all families."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from model import compact
from model.cross_attention import set_kernel
from model.interface import Model


def load_model(
    name: str = "compact", *, device: str = "auto", threads: int | None = None, kernel: str = "auto"
) -> Model:
    """Load ``compact`` (embedded), ``tiny`` (random, for tests), a model's folder, or a published one by hub name.

    ``device`` is ``auto``, ``cpu`` or ``cuda``; ``threads`` bounds the CPU threads of one operation.

    Raises ValueError or OSError with a message for the operator where the model cannot be had.
    """
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model: compact.CompactModel
    if name == "compact":
        model = compact.load(id="compact", device=device)
    elif name == "tiny":
        model = compact.tiny(device=device)
    elif _family(name) == "compact":
        model = compact.load(Path(name), device=device)
    else:
        raise ValueError(f"{name!r} is neither `compact` nor the folder of a model that crosslook knows")
    set_kernel(model.net, kernel)
    return model


def _family(name: str) -> str | None:
    """The ``family`` that a folder's config.json names."""
    path = Path(name) / "config.json"
    if not path.is_file():
        return None
    family = json.loads(path.read_text()).get("family")
    return family if isinstance(family, str) else None
