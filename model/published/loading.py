"""A checkpoint's folder -> a loaded model, or an error that says what is wrong with the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from model.published.checkpoint import Loaded, LoadRequest, load_weights, revision_of
from model.published.family import Family

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODEL_TYPES = ("blip", "clip", "siglip")


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
) -> Family:
    """Load a published model.

    ``dtype`` ``auto`` is float32 on a CPU and float16 on a GPU. Weights are read from safetensors alone, unless
    ``allow_pickle``; code that a folder brings is never run.

    Raises ValueError or OSError where the folder does not hold a whole model of a known family.
    """
    place = torch.device(device)
    kind = ("float32" if place.type == "cpu" else "float16") if dtype == "auto" else dtype
    if kind not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; there are auto, {', '.join(DTYPES)}")
    family = model_type(folder)
    request = LoadRequest(folder, id, revision or revision_of(folder), place, DTYPES[kind], allow_pickle)
    with _faults_of(folder):
        if family == "blip":
            return _load_blip(request)
        if family in ("clip", "siglip"):
            from model.published.dual_encoder import load_dual_encoder

            return load_dual_encoder(request, family)
    raise ValueError(f"{folder} holds a model of type {family!r}; known are {', '.join(MODEL_TYPES)}")


def _load_blip(request: LoadRequest) -> Family:
    import transformers

    from model.published.blip.answer import BlipAnswer
    from model.published.blip.base import Blip
    from model.published.blip.caption import BlipCaption
    from model.published.blip.match import BlipMatch
    from model.published.preprocess import read_processor
    from model.published.tokenizer import load_tokenizer

    families: dict[str, tuple[type[Any], type[Blip]]] = {
        "BlipForQuestionAnswering": (transformers.BlipForQuestionAnswering, BlipAnswer),
        "BlipForConditionalGeneration": (transformers.BlipForConditionalGeneration, BlipCaption),
        "BlipForImageTextRetrieval": (transformers.BlipForImageTextRetrieval, BlipMatch),
    }
    folder = request.folder
    architecture = (json.loads((folder / "config.json").read_text()).get("architectures") or [None])[0]
    if architecture not in families:
        raise ValueError(f"{folder} is a {architecture}; of BLIP's, crosslook runs {', '.join(families)}")
    theirs, ours = families[architecture]
    net = load_weights(theirs, request)
    vision = net.config.vision_config
    resize, normalization = read_processor(folder, vision.image_size, vision.patch_size)
    tokenizer = load_tokenizer(folder)
    loaded = Loaded(net, tokenizer, resize, normalization, request.id, request.revision, request.device)
    return ours(loaded)  # type: ignore[call-arg]
