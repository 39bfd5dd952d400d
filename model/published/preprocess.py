"""A checkpoint's own image preprocessing, from its ``preprocessor_config.json``, and the geometry that goes with it.

No torch here: the service preprocesses in its parent process.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.interface import Geometry, Pixels, Region

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_LARGEST = 1 << 26  # pixels of an image, or of its side
_LONGEST = 8  # an image of more times its shorter side is never resized as a whole


@dataclass(frozen=True, slots=True)
class Resize:
    """Resize the image to the model's input, as transformers' processors do with Pillow.

    Without ``crop`` the whole image is squashed to ``height`` x ``width``. With it the shorter side becomes ``short``
    pixels and the centre ``height`` x ``width`` is cut out; the grid then covers that part of the image alone.
    """

    height: int
    width: int
    rows: int
    columns: int
    resample: int = Image.Resampling.BICUBIC
    short: int | None = None

    @property
    def size(self) -> int:
        """What an image may be decoded down to: the pixels that its shorter side needs."""
        return self.short or max(self.height, self.width)

    def __call__(self, image: Image.Image) -> Pixels:
        """``image`` RGB, upright."""
        if self.short is None:
            values = np.asarray(image.resize((self.width, self.height), self.resample), dtype=np.uint8)
            region = Region(0.0, 0.0, float(image.width), float(image.height))
        else:
            values, region = self._crop(image, self.short)
        return Pixels(values, Geometry(image.width, image.height, self.rows, self.columns, region))

    def _crop(self, image: Image.Image, short: int) -> tuple[NDArray[np.uint8], Region]:
        if image.width <= image.height:
            width, height = short, int(short * image.height / image.width)
        else:
            width, height = int(short * image.width / image.height), short
        left, top = (width - self.width) // 2, (height - self.height) // 2
        x, y = image.width / width, image.height / height
        right, bottom = min((left + self.width) * x, image.width), min((top + self.height) * y, image.height)
        region = Region(left * x, top * y, right, bottom)
        if max(width, height) <= _LONGEST * short:
            whole = image.resize((width, height), self.resample)
            cropped = whole.crop((left, top, left + self.width, top + self.height))
        else:  # all of a very long image would be hundreds of megapixels; this differs from it by rounding alone
            box = (region.left, region.top, region.right, region.bottom)
            cropped = image.resize((self.width, self.height), self.resample, box=box)
        return np.asarray(cropped, dtype=np.uint8), region


@dataclass(frozen=True, slots=True)
class Normalization:
    """Of pixels in 0..255: ``(pixel * scale - mean) / std`` a channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_processor(folder: Path, image_size: int | tuple[int, int], patch_size: int) -> tuple[Resize, Normalization]:
    """The preprocessing that a checkpoint's folder asks for, for a vision tower of these sizes.

    Raises ValueError where it asks for what its own vision tower cannot take, or for what is no preprocessing at all.
    """
    config = processor_config(folder)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size, short = config.get("size", {}), None
    if isinstance(size, int):
        size = {"shortest_edge": size} if config.get("do_center_crop") else {"height": size, "width": size}
    size = _sides(folder, "size", size)
    if config.get("do_center_crop"):
        short = size.get("shortest_edge") or min(size.get("height", height), size.get("width", width))
        size = config.get("crop_size", {"height": height, "width": width})
        size = _sides(folder, "crop_size", {"height": size, "width": size} if isinstance(size, int) else size)
    asked = (size.get("height", height), size.get("width", width))
    if asked != (height, width):
        raise ValueError(f"{folder}: its images are made {asked}, but its vision tower takes {(height, width)}")
    if short is not None and short < max(height, width):
        raise ValueError(f"{folder}: a shorter side of {short} pixels is too small for crops of {(height, width)}")
    if short is not None and short > _LONGEST * max(height, width):
        raise ValueError(f"{folder}: a shorter side of {short} pixels is too large for crops of {(height, width)}")
    resample = read_resample(folder, config, Image.Resampling.BICUBIC)
    resize = Resize(height, width, height // patch_size, width // patch_size, resample, short)
    return resize, read_normalization(folder, config)


def read_resample(folder: Path, config: dict[str, Any], default: int) -> int:
    """The filter that images are resized with. Raises ValueError for what is none of Pillow's."""
    resample = config.get("resample", default)
    if resample not in list(Image.Resampling):
        raise ValueError(f"{folder}: its resample {_shown(resample)} is none of Pillow's filters")
    return int(resample)


def read_normalization(
    folder: Path, config: dict[str, Any], mean: tuple[float, ...] = _CLIP_MEAN, std: tuple[float, ...] = _CLIP_STD
) -> Normalization:
    """How pixels are normalised; ``mean`` and ``std`` are the family's own. Raises ValueError for what are no numbers
    to do that with."""
    normalized = config.get("do_normalize", True)
    mean = config.get("image_mean") or mean if normalized else (0.0, 0.0, 0.0)
    std = config.get("image_std") or std if normalized else (1.0, 1.0, 1.0)
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    _check_numbers(folder, "rescale_factor", [scale], count=1, positive=True)
    _check_numbers(folder, "image_mean", mean)
    _check_numbers(folder, "image_std", std, positive=True)
    return Normalization(float(scale), tuple(mean), tuple(std))


def read_side(folder: Path, config: dict[str, Any], name: str, side: str, default: int) -> int:
    """One ``side`` of the size that is called ``name``; ``default`` where it is not there. Raises ValueError for what
    is no size, or more than any image has."""
    sides = _sides(folder, name, config.get(name) or {})
    found = sides.get(side, default)
    if found > _LARGEST:
        raise ValueError(f"{folder}: its {name} asks for {found} pixels")
    return found


def _shown(value: Any) -> str:
    """As much of a value as a message can hold."""
    return reprlib.repr(value)


def _sides(folder: Path, name: str, size: Any) -> dict[str, int]:
    """The sides that a size names; one that is null is as if not there."""
    if isinstance(size, dict):
        sides = {side: length for side, length in size.items() if length is not None}
        if all(isinstance(length, int) and length > 0 for length in sides.values()):
            return sides
    raise ValueError(f"{folder}: its {name} {_shown(size)} is no size of an image")


def _check_numbers(folder: Path, name: str, values: Any, *, count: int = 3, positive: bool = False) -> None:
    """Raise ValueError unless there are ``count`` that float32, in which images are normalised, can hold."""
    if isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values):
        with np.errstate(over="ignore"):
            held = np.array(values, np.float32)
        if len(held) == count and np.isfinite(held).all() and (held.min() > 0 or not positive):
            return
    wanted = f"{count} finite numbers" + " above 0" * positive
    raise ValueError(f"{folder}: its {name} must be {wanted}, not {_shown(values)}")


def processor_config(folder: Path) -> dict[str, Any]:
    """The image processor's settings, from either of the two files that hold them.

    Raises: ValueError where there is none, or it holds no mapping.
    """
    old, new = folder / "preprocessor_config.json", folder / "processor_config.json"
    found: Any = None
    if old.is_file():
        found = json.loads(old.read_text(encoding="utf-8"))
    elif new.is_file():
        whole = json.loads(new.read_text(encoding="utf-8"))
        found = whole.get("image_processor", {}) if isinstance(whole, dict) else whole
    else:
        raise ValueError(f"{folder} has no preprocessor_config.json")
    if not isinstance(found, dict):
        raise ValueError(f"{folder}: its settings for images are {_shown(found)}, no mapping")
    return found
