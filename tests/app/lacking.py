"""Loaders of the tiny model as a worker has it on lesser machines."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from model.compact import image_networks
from model.interface import Model
from model.registry import load_model


def without_runtime(**arguments: Any) -> Model:
    """No ONNX Runtime: its import fails."""
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]
    return load_model(**arguments)


def without_vnni(**arguments: Any) -> Model:
    """An x86 of before 2019."""
    image_networks.lacks_for_int8 = partial(image_networks.lacks_for_int8, "x86_64", "flags: sse4_2 avx2 fma")
    return load_model(**arguments)
