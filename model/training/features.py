"""The vision features of a data folder, made once: on two cores the vision pass costs more than all else in a step.

A cache folder holds for each archive ``<key>.fine.npy`` and ``<key>.coarse.npy`` (float16) and ``<key>.names.json``
with the images' names in their order; the key names the archive, its bytes or place, and the vision network, so that
another data folder never gets these features. It is made in pieces and resumes where it broke off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from model.compact.network import CompactNet
from model.compact.preprocess import Squash
from model.compact.vision import VisionFeatures
from model.evaluation.collages import compose
from model.evaluation.data import DataSet, ImageRef

T = TypeVar("T")
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """Features and meaning of all images in memory; ``index`` says which row an image has."""

    fine: NDArray[np.float16]  # [images, channels, 2h, 2w]
    coarse: NDArray[np.float16]  # [images, channels, h, w]
    meaning: Tensor  # float16 [images, h, w, meaning_dim]
    index: dict[ImageRef, int]

    def take(self, rows: Sequence[int], device: torch.device) -> tuple[VisionFeatures, Tensor]:
        """The features and meaning of some images, float32, on a device."""
        fine, coarse = (torch.from_numpy(array[rows]).to(device).float() for array in (self.fine, self.coarse))
        return VisionFeatures(fine, coarse), self.meaning[rows].to(device).float()


def load_features(
    data: DataSet, net: CompactNet, folder: Path, device: torch.device, refs: Iterable[ImageRef] | None = None
) -> FeatureCache:
    """The cached features of the images ``refs`` of ``data`` (default: of all), made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    archives: dict[str, list[str]] = {}
    for ref in dict.fromkeys(data.image_refs if refs is None else refs):
        archives.setdefault(ref.archive, []).append(ref.name)
    parts, index, start = [], {}, 0
    for archive, names in archives.items():
        cached, fine, coarse = _load_or_make(data, net, folder, archive, names, device)
        parts.append((fine, coarse))
        index.update({ImageRef(archive, name): start + i for i, name in enumerate(cached)})
        start += len(cached)
    fine, coarse = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return FeatureCache(fine, coarse, _meaning(net, coarse, folder, device), index)


def load_collage_features(
    data: DataSet, net: CompactNet, collages: Sequence[Sequence[ImageRef]], folder: Path, device: torch.device
) -> FeatureCache:
    """The cached features of collages, a row each; ``index`` is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr([tuple(map(tuple, refs)) for refs in collages]).encode())
    stem = _key(data, net, f"collages.{digest.hexdigest()[:8]}")
    fine, coarse = _make(net, folder, stem, collages, lambda refs: compose(refs, data.open_image), device)
    return FeatureCache(fine, coarse, _meaning(net, coarse, folder, device), {})


def _load_or_make(
    data: DataSet, net: CompactNet, folder: Path, archive: str, names: list[str], device: torch.device
) -> tuple[list[str], NDArray[np.float16], NDArray[np.float16]]:
    stem = _key(data, net, archive)
    listing = folder / f"{stem}.names.json"
    if listing.exists():
        cached = json.loads(listing.read_text())
        if set(names) <= set(cached):
            return cached, np.load(folder / f"{stem}.fine.npy"), np.load(folder / f"{stem}.coarse.npy")
    fine, coarse = _make(net, folder, stem, names, lambda name: data.open_image(ImageRef(archive, name)), device)
    listing.write_text(json.dumps(names))
    return names, fine, coarse


def _make(
    net: CompactNet, folder: Path, stem: str, what: Sequence[T], open_image: Callable[[T], Image], device: torch.device
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """The features of each of ``what``: made, or gone on with, or already whole in the folder."""
    fine_file, coarse_file = folder / f"{stem}.fine.npy", folder / f"{stem}.coarse.npy"
    size, half = net.config.cells, net.config.cells // 2
    shapes = (len(what), net.vision.fine_channels, size, size), (len(what), net.vision.coarse_channels, half, half)
    progress = folder / f"{stem}.progress.json"
    about = hashlib.sha256(repr(list(what)).encode()).hexdigest()
    done = json.loads(progress.read_text()) if progress.exists() else {}
    begin = done["images"] if done.get("about") == about else 0
    fine, coarse = (
        np.lib.format.open_memmap(file, "r+" if begin else "w+", np.float16, shape)
        for file, shape in zip((fine_file, coarse_file), shapes, strict=True)
    )
    prepare = Squash(net.config.size, net.config.cells, net.config.cells)
    net.vision.to(device)
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        for at in tqdm(range(begin, len(what), _AT_ONCE), desc=f"features of {stem}", unit="batch", mininterval=5):
            part = what[at : at + _AT_ONCE]
            pixels = np.stack(list(pool.map(lambda one: prepare(open_image(one)).values, part)))
            features = net.vision(torch.from_numpy(pixels).to(device))
            fine[at : at + len(part)] = features.fine.cpu().numpy()
            coarse[at : at + len(part)] = features.coarse.cpu().numpy()
            if at // _AT_ONCE % 50 == 49 or at + len(part) == len(what):
                fine.flush()
                coarse.flush()
                progress.write_text(json.dumps({"about": about, "images": at + len(part)}))
    return np.asarray(fine), np.asarray(coarse)


def _key(data: DataSet, net: CompactNet, archive: str) -> str:
    """The archive's name, and a hash of what its features depend on."""
    place = (data.root / archive).resolve()
    about = f"{place.name} {place.stat().st_size}" if place.is_file() else str(place)
    digest = hashlib.sha256(f"{about} {net.config.vision} {net.config.size}".encode())
    for parameter in net.vision.parameters():
        digest.update(parameter.detach().half().cpu().numpy().tobytes())
    return f"{archive.replace('/', '_')}.{digest.hexdigest()[:12]}"


@torch.inference_mode()
def _meaning(net: CompactNet, coarse: NDArray[np.float16], folder: Path, device: torch.device) -> Tensor:
    digest = hashlib.sha256(coarse[:, :, 0, 0].tobytes())
    for weight in (net.vision.classifier.weight, net.patches.class_meaning.weight):
        digest.update(weight.detach().half().cpu().numpy().tobytes())
    file = folder / f"meaning.{digest.hexdigest()[:12]}.npy"
    if file.exists():
        return torch.from_numpy(np.load(file))
    net.to(device)
    found = []
    for at in tqdm(range(0, len(coarse), 64), desc="what the features mean", unit="batch"):
        features = torch.from_numpy(coarse[at : at + 64]).to(device).float()
        found.append(net.patches.mean(net.vision.classify(features).softmax(1)).half().cpu())
    meaning = torch.cat(found)
    np.save(file, meaning.numpy())
    return meaning
