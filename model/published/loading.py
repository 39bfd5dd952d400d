"""A checkpoint's folder -> a loaded model, or an error that says what is wrong with the folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from model.published.checkpoint import LoadRequest, revision_of
from model.published.family import PublishedFamily

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FAMILIES = {  # model_type -> the module that declares the family: MODEL_TYPE, ARCHITECTURES and load(request)
    "blip": "model.published.blip",
    "blip-2": "model.published.blip2",
    "clip": "model.published.dual_encoder.clip",
    "gemma3": "model.published.causal.gemma3",
    "idefics": "model.published.idefics",
    "idefics3": "model.published.causal.idefics3",
    "instructblip": "model.published.instructblip",
    "internvl": "model.published.causal.internvl",
    "llava": "model.published.causal.llava",
    "llava_onevision": "model.published.causal.llava_onevision",
    "mllama": "model.published.mllama",
    "paligemma": "model.published.causal.paligemma",
    "qwen2_5_vl": "model.published.causal.qwen2_5_vl",
    "qwen3_vl": "model.published.causal.qwen3_vl",
    "siglip": "model.published.dual_encoder.siglip",
    "smolvlm": "model.published.causal.smolvlm",
    "vilt": "model.published.vilt",
}


@contextmanager
def _faults_of(folder: Path) -> Iterator[None]:
    """Reading the folder raises ValueError or OSError, or that memory is out: files that are damaged, or made to do
    harm, let the libraries raise whatever they like, which is no message for an operator."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, ValueError | OSError | MemoryError | torch.OutOfMemoryError)
        if told and not isinstance(error, json.JSONDecodeError | UnicodeError):  # those two name no file
            raise
        fault = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{folder} cannot be read as a model ({fault})") from error


def model_type(folder: Path) -> str | None:
    """The ``model_type`` that a folder's config.json names; None where it names none or there is no such file.

    Raises ValueError for a config.json that cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    with _faults_of(folder):
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no configuration: {error}") from error
    return found if isinstance(found, str) else None


def load(
    folder: Path,
    *,
    id: str,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: str = "auto",
    allow_pickle: bool = False,
    image_bytes: int | None = None,
) -> PublishedFamily:
    """Load a published model.

    ``dtype`` ``auto`` is float32 on a CPU and float16 on a GPU. Weights are read from safetensors alone, unless
    ``allow_pickle``; code that a folder brings is never run. ``image_bytes``: see `LoadRequest`.

    Raises ValueError or OSError where the folder does not hold a whole model of a known family.
    """
    place = torch.device(device)
    kind = ("float32" if place.type == "cpu" else "float16") if dtype == "auto" else dtype
    if kind not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; there are auto, {', '.join(DTYPES)}")
    family = model_type(folder)
    if family not in FAMILIES:
        raise ValueError(f"{folder} holds a model of type {family!r}; known are {', '.join(FAMILIES)}")
    with _faults_of(folder):
        request = LoadRequest(
            folder, id, revision or revision_of(folder), place, DTYPES[kind], allow_pickle, image_bytes
        )
        loaded: PublishedFamily = importlib.import_module(FAMILIES[family]).load(request)
    return loaded
