"""A checkpoint's folder -> a loaded model, or an error that says what is wrong with the folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.published.family import Family

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODEL_TYPES = ("blip", "clip", "siglip")


@dataclass(frozen=True, slots=True)
class Source:
    """What to load and how."""

    folder: Path
    id: str
    revision: str
    device: torch.device
    dtype: torch.dtype
    allow_pickle: bool


def model_type(folder: Path) -> str | None:
    """The ``model_type`` that a folder's config.json names; None where it names none or there is no such file.

    Raises ValueError for a config.json that cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
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
    source = Source(folder, id, revision or _revision(folder), place, DTYPES[kind], allow_pickle)
    if family == "blip":
        return _load_blip(source)
    if family in ("clip", "siglip"):
        from model.published.dual_encoder import load_dual_encoder

        return load_dual_encoder(source)
    raise ValueError(f"{folder} holds a model of type {family!r}; known are {', '.join(MODEL_TYPES)}")


def _load_blip(source: Source) -> Family:
    import transformers

    from model.published.blip import Blip, Loaded
    from model.published.blip_answer import BlipAnswer
    from model.published.blip_caption import BlipCaption
    from model.published.blip_match import BlipMatch
    from model.published.images import read_processor
    from model.published.tokenizing import load_tokenizer

    families: dict[str, tuple[type[Any], type[Blip]]] = {
        "BlipForQuestionAnswering": (transformers.BlipForQuestionAnswering, BlipAnswer),
        "BlipForConditionalGeneration": (transformers.BlipForConditionalGeneration, BlipCaption),
        "BlipForImageTextRetrieval": (transformers.BlipForImageTextRetrieval, BlipMatch),
    }
    folder = source.folder
    architecture = (json.loads((folder / "config.json").read_text()).get("architectures") or [None])[0]
    if architecture not in families:
        raise ValueError(f"{folder} is a {architecture}; of BLIP's, crosslook runs {', '.join(families)}")
    theirs, ours = families[architecture]
    net = load_weights(theirs, source)
    vision = net.config.vision_config
    resize, normalization = read_processor(folder, vision.image_size, vision.patch_size)
    tokenizer = load_tokenizer(folder)
    loaded = Loaded(net, tokenizer, resize, normalization, source.id, source.revision, source.device)
    return ours(loaded)  # type: ignore[call-arg]


def load_weights(kind: Any, source: Source) -> Any:
    """A model of transformers with all its weights from the folder.

    Raises ValueError where weights are missing, damaged, of another shape, or in a format that is not allowed.
    """
    folder, allow_pickle = source.folder, source.allow_pickle
    if not allow_pickle and not any(folder.glob("*.safetensors")):
        if any(folder.glob("pytorch_model*.bin")):
            message = "its weights are pickled (pytorch_model.bin), which can run code when loaded; "
            raise ValueError(f"{folder}: {message}convert them to safetensors, or set CROSSLOOK_ALLOW_PICKLE=1")
        raise ValueError(f"{folder} holds no weights (model.safetensors)")
    try:
        net, report = kind.from_pretrained(
            str(folder),
            dtype=source.dtype,
            local_files_only=True,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors', pickle's and transformers' own, of many kinds
        raise ValueError(f"the weights of {folder} cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3])
        raise ValueError(f"{folder} lacks {len(missing)} weights of a {kind.__name__}, such as {shown}")
    return net.to(source.device)


def _revision(folder: Path) -> str:
    """``sha256:`` and 16 digits of the hash over all files that decide what the model says."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".txt", ".safetensors", ".bin", ".model"):
            with file.open("rb") as opened:
                digest.update(file.name.encode() + b"\0" + hashlib.file_digest(opened, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"
