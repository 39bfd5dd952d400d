"""The vision features of a data folder, made once: on two cores the vision pass costs more than all else in a step.

A cache folder holds for each archive ``<key>.<part>.npy`` (float16; colours in 255 steps), a part for each tensor that
the image networks give, and ``<key>.names.json`` with the images' names in their order; the key names the archive, its
bytes or place, and the image networks, so that another data folder never gets these features. It is made in pieces and
resumes where it broke off.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from model.compact.colours import COLOURS
from model.compact.model import CompactModel
from model.compact.network import CompactNet
from model.compact.objects import SLOTS, Seen
from model.compact.vision import VisionFeatures
from model.evaluation.data import DataSet, ImageRef

T = TypeVar("T")
_AT_ONCE = 16


class Rows:
    """Arrays ``[n, ...]`` one behind the other, read from their files where they are needed."""

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self._arrays = arrays
        self._ends = list(accumulate(len(array) for array in arrays))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def take(self, rows: Sequence[int]) -> Tensor:
        """Some rows ``[rows, ...]``, in the dtype in which they are kept."""
        found = []
        for row in rows:
            part = bisect_right(self._ends, row)
            found.append(self._arrays[part][row - (self._ends[part - 1] if part else 0)])
        return torch.from_numpy(np.stack(found))


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """Features and meaning of all images; ``index`` says which row an image has, ``parts`` has the tensors by name."""

    parts: dict[str, Rows]
    index: dict[ImageRef, int]

    def take(self, rows: Sequence[int], device: torch.device) -> tuple[VisionFeatures, Tensor]:
        """The `VisionFeatures` and the meaning ``[images, h, w, meaning_dim]`` of some images, float32, on a device."""
        found = {name: part.take(rows).to(device).float() for name, part in self.parts.items()}
        seen = None
        if "objects" in found:
            seen = Seen(found["detected"], found["colours"] / 255, found["objects"])
        return VisionFeatures(found["fine"], found["coarse"], seen), found["meaning"]


def load_features(
    data: DataSet, model: CompactModel, folder: Path, device: torch.device, refs: Iterable[ImageRef] | None = None
) -> FeatureCache:
    """The cached features of the images ``refs`` of ``data`` (default: of all), made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    archives: dict[str, list[str]] = {}
    for ref in dict.fromkeys(data.image_refs if refs is None else refs):
        archives.setdefault(ref.archive, []).append(ref.name)
    parts: dict[str, list[NDArray[Any]]] = {}
    index: dict[ImageRef, int] = {}
    for archive, names in archives.items():
        cached, found = _load_or_make(data, model, folder, archive, names, device)
        start = len(index)
        index.update({ImageRef(archive, name): start + i for i, name in enumerate(cached)})
        for part, array in found.items():
            parts.setdefault(part, []).append(array)
        parts.setdefault("meaning", []).append(_meaning(model.net, found["coarse"], folder, device))
    return FeatureCache({name: Rows(arrays) for name, arrays in parts.items()}, index)


def _load_or_make(
    data: DataSet, model: CompactModel, folder: Path, archive: str, names: list[str], device: torch.device
) -> tuple[list[str], dict[str, NDArray[Any]]]:
    stem = _key(data, model, archive)
    listing = folder / f"{stem}.names.json"
    if listing.exists():
        cached = json.loads(listing.read_text())
        if set(names) <= set(cached):
            return cached, {part: np.load(folder / f"{stem}.{part}.npy", mmap_mode="r") for part in _shapes(model.net)}
    found = _make(model, folder, stem, names, lambda name: data.open_image(ImageRef(archive, name)), device)
    listing.write_text(json.dumps(names))
    return names, found


def _shapes(net: CompactNet) -> dict[str, tuple[type, tuple[int, ...]]]:
    """What is kept of an image: the type and shape of each part."""
    size, half = net.config.cells, net.config.cells // 2
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "fine": (np.float16, (net.vision.fine_channels, size, size)),
        "coarse": (np.float16, (net.vision.coarse_channels, half, half)),
    }
    if net.config.detector_channels:
        shapes["detected"] = (np.float16, (net.config.detector_channels, size, size))
        shapes["colours"] = (np.uint8, (size, size, len(COLOURS)))
        shapes["objects"] = (np.float32, (SLOTS, 6))
    return shapes


def _make(
    model: CompactModel,
    folder: Path,
    stem: str,
    what: Sequence[T],
    open_image: Callable[[T], Image],
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """The features of each of ``what``: made, or gone on with, or already whole in the folder."""
    progress = folder / f"{stem}.progress.json"
    about = hashlib.sha256(repr(list(what)).encode()).hexdigest()
    done = json.loads(progress.read_text()) if progress.exists() else {}
    begin = done["images"] if done.get("about") == about else 0
    arrays = {}
    for name, (dtype, shape) in _shapes(model.net).items():
        file = folder / f"{stem}.{name}.npy"
        if not begin:
            file.unlink(missing_ok=True)  # another run that reads it keeps what it has
        arrays[name] = np.lib.format.open_memmap(file, "r+" if begin else "w+", dtype, (len(what), *shape))
    prepare, net = model.info.preprocess, model.net
    net.to(device)
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        for at in tqdm(range(begin, len(what), _AT_ONCE), desc=f"features of {stem}", unit="batch", mininterval=5):
            part = what[at : at + _AT_ONCE]
            images = list(pool.map(lambda one: prepare(open_image(one)), part))
            seen = torch.from_numpy(np.stack([image.values for image in images]))
            aspects = [image.geometry.width / image.geometry.height for image in images]
            features = net.describe(model.image_networks(seen, aspects), seen)
            found = {"fine": features.fine, "coarse": features.coarse}
            if features.seen is not None:
                colours = (features.seen.colours * 255).round()
                found |= {"detected": features.seen.features, "colours": colours, "objects": features.seen.objects}
            for name, values in found.items():
                arrays[name][at : at + len(part)] = values.cpu().numpy()
            if at // _AT_ONCE % 50 == 49 or at + len(part) == len(what):
                for array in arrays.values():
                    array.flush()
                progress.write_text(json.dumps({"about": about, "images": at + len(part)}))
    return dict(arrays)


def _key(data: DataSet, model: CompactModel, archive: str) -> str:
    """The archive's name, and a hash of what its features depend on."""
    place = (data.root / archive).resolve()
    about = f"{place.name} {place.stat().st_size}" if place.is_file() else str(place)
    config = model.net.config
    way = f"{config.vision} {config.size} {config.pixels} {SLOTS} letterboxed {model.image_networks.way}"
    if model.image_networks.way == "int8":
        way += json.dumps(sorted((model.ranges or {}).items()))
    digest = hashlib.sha256(f"{about} {way}".encode())
    for module in (model.net.vision, model.detector):
        for parameter in () if module is None else module.parameters():
            digest.update(parameter.detach().half().cpu().numpy().tobytes())
    return f"{archive.replace('/', '_')}.{digest.hexdigest()[:12]}"


@torch.inference_mode()
def _meaning(net: CompactNet, coarse: NDArray[np.float16], folder: Path, device: torch.device) -> NDArray[Any]:
    digest = hashlib.sha256(coarse[:, :, 0, 0].tobytes())
    for weight in (net.vision.classifier.weight, net.patches.class_meaning.weight):
        digest.update(weight.detach().half().cpu().numpy().tobytes())
    file = folder / f"meaning.{digest.hexdigest()[:12]}.npy"
    if file.exists():
        return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]
    net.to(device)
    found = []
    for at in tqdm(range(0, len(coarse), 64), desc="what the features mean", unit="batch"):
        features = torch.from_numpy(np.array(coarse[at : at + 64])).to(device).float()
        found.append(net.patches.mean(net.vision.classify(features).softmax(1)).half().cpu())
    meaning: NDArray[Any] = torch.cat(found).numpy()
    np.save(file, meaning)
    return meaning
