"""From a model's name to a loaded model: the default one, its folders, or a published one (`model.published`)."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import torch

from model.compact import model as compact
from model.interface import Model
from model.kernels import check_kernel


def load_model(
    name: str = "compact",
    *,
    device: str = "auto",
    threads: int | None = None,
    kernel: str = "auto",
    dtype: str = "auto",
    allow_pickle: bool = False,
    image_bytes: int | None = None,
) -> Model:
    """Load ``compact`` (embedded), ``tiny`` (random, for tests), a model's folder, or a published one by hub name
    (``owner/name``, or ``owner/name@revision``).

    ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``threads`` bounds the CPU threads of one operation. For
    published models, ``dtype`` is ``auto`` (float16 on a GPU, else float32), ``float32``, ``float16`` or ``bfloat16``;
    for the others it is what their image networks are computed in, ``auto`` (int8 on a CPU) or ``float32``, as all of
    a GPU's is (see `model.compact.image_networks.choose`). ``allow_pickle`` lets weights be read
    that are not safetensors. ``image_bytes`` is the most that an encoded image should take, by models that can do with
    less (see `model.published.checkpoint.LoadRequest`).

    Raises ValueError or OSError with a message for the operator where the model cannot be had.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    try:
        check_kernel(kernel, device)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    own: compact.CompactModel
    if name == "compact":
        own = compact.load(id="compact", device=device, dtype=dtype)
    elif name == "tiny":
        own = compact.tiny(device=device, dtype=dtype)
    elif _family(name) == "compact":
        own = compact.load(Path(name), device=device, dtype=dtype)
    else:
        options = {"dtype": dtype, "allow_pickle": allow_pickle, "image_bytes": image_bytes}
        return _published(name, device=device, kernel=kernel, **options)
    own.use_kernel(kernel)
    return own


def _published(name: str, *, device: str, kernel: str, **options: Any) -> Model:
    from model.published import hub, loading  # slow to import, and of no use to the model that is embedded

    folder, revision = Path(name), None
    if not folder.is_dir():
        if folder.is_file():
            raise ValueError(f"{name!r} is a file; name the folder of the model that it belongs to")
        if not hub.is_hub_name(name):
            raise ValueError(_unknown(name))
        folder, revision = hub.fetch(name, allow_pickle=bool(options["allow_pickle"]))
        name = name.partition("@")[0]
    else:
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no model that crosslook knows: it has no config.json")
        if loading.model_type(folder) is None:
            raise ValueError(f"{folder} holds no model that crosslook knows: its config.json names none")
        name = folder.resolve().name
    model = loading.load(folder, id=name, revision=revision, device=device, **options)
    model.use_kernel(kernel)
    return model


def _check_device(device: str) -> None:
    """Raise ValueError for a device that is not there, or on which no model has been tried."""
    unknown = f"unknown device {device!r}; there are auto, cpu, cuda and cuda:N"
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise ValueError(unknown) from None
    if asked.type not in ("cpu", "cuda"):  # PyTorch knows many more: mps, xpu, meta
        raise ValueError(unknown)
    if asked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} is asked for, but PyTorch finds no CUDA device")
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device} is asked for, but PyTorch finds {torch.cuda.device_count()} CUDA devices")


def _unknown(name: str) -> str:
    """What to say of a name that is no model's."""
    close = difflib.get_close_matches(name.lower(), ("compact", "tiny"), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{name!r} is neither `compact`, a folder nor the name of a model on the hub (owner/name){hint}"


def _family(name: str) -> str | None:
    """The ``family`` that a folder's config.json names."""
    path = Path(name) / "config.json"
    if not path.is_file():
        return None
    try:
        family = json.loads(path.read_text(encoding="utf-8")).get("family")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no configuration: {error}") from error
    return family if isinstance(family, str) else None
