"""A checkpoint's folder: its weights, read whole and safely, and the revision that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.published.preprocess import Normalization, Resize, read_processor
from model.published.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load and how."""

    folder: Path
    id: str
    revision: str
    device: torch.device
    dtype: torch.dtype
    allow_pickle: bool
    image_bytes: int | None = None
    """The most that an encoded image should take, in bytes: models that write keep its features in place of keys and
    values that would take more. None: no limit."""


class Loaded(NamedTuple):
    """A checkpoint as it comes from its folder."""

    net: Any  # one of transformers' models
    tokenizer: Tokenizer
    resize: Resize
    normalization: Normalization
    id: str
    revision: str
    device: torch.device
    folder: Path


def load_checkpoint(kind: Any, request: LoadRequest) -> Loaded:
    """The checkpoint of a folder: ``kind`` is transformers' class for it, whose configuration has a ``vision_config``
    with ``image_size`` and ``patch_size``. Raises ValueError for whatever of it is missing or makes no sense."""
    net = load_weights(kind, request)
    vision = net.config.vision_config
    resize, normalization = read_processor(request.folder, vision.image_size, vision.patch_size)
    tokenizer = load_tokenizer(request.folder)
    return Loaded(net, tokenizer, resize, normalization, request.id, request.revision, request.device, request.folder)


def architecture_of(folder: Path, known: Collection[str]) -> str:
    """The first of the ``architectures`` in a folder's config.json. Raises ValueError where it is not a known one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = config.get("architectures")
    if not named or not isinstance(named, list):
        message = f"names no `architectures`, which tell what a {config['model_type']} does"
        raise ValueError(f"the config.json of {folder} {message}; crosslook runs {', '.join(known)}")
    architecture = named[0]
    if architecture not in known:
        raise ValueError(f"{folder} is a {architecture}; of {config['model_type']}, crosslook runs {', '.join(known)}")
    return str(architecture)


def load_weights(kind: Any, request: LoadRequest) -> Any:
    """A model of transformers with all its weights from the folder.

    Raises ValueError where weights are missing, damaged, of another shape, or in a format that is not allowed.
    """
    folder, allow_pickle = request.folder, request.allow_pickle
    if not allow_pickle and not any(folder.glob("*.safetensors")):
        if any(folder.glob("pytorch_model*.bin")):
            message = "its weights are pickled (pytorch_model.bin), which can run code when loaded; "
            raise ValueError(f"{folder}: {message}convert them to safetensors, or set CROSSLOOK_ALLOW_PICKLE=1")
        raise ValueError(f"{folder} holds no weights (model.safetensors)")
    for name in _named_files(folder, allow_pickle):
        if Path(name).name != name:
            raise ValueError(f"{folder} names {name[:80]!r} as its weights, which is no file of that folder")
        if not allow_pickle and not name.endswith(".safetensors"):
            raise ValueError(f"{folder} names {name[:80]!r} as its weights, which is no safetensors file")
    try:
        net, report = kind.from_pretrained(
            str(folder),
            dtype=request.dtype,
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
    return net.to(request.device)


def _named_files(folder: Path, allow_pickle: bool) -> Iterator[str]:
    """The files that the folder names as its weights. transformers reads them wherever they are and whatever they hold,
    even where it is asked for safetensors alone."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("transformers_weights") is not None:
        yield str(config["transformers_weights"]).removesuffix(".index.json")  # what an index names comes below
    for index in sorted(folder.glob("*.index.json" if allow_pickle else "*.safetensors.index.json")):
        for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
            yield str(name)


def revision_of(folder: Path) -> str:
    """``sha256:`` and 16 digits of the hash over all files that decide what the model says."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".txt", ".safetensors", ".bin", ".model"):
            with file.open("rb") as opened:
                digest.update(file.name.encode() + b"\0" + hashlib.file_digest(opened, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"
