"""What the image networks see, computed one of three ways, chosen once: ONNX Runtime with int8, ONNX Runtime with
float32, or PyTorch.

On a CPU, int8 takes a third of PyTorch's time; the default model is trained on what it gives. PyTorch is for GPUs,
and for where the runtime is missing. A folder holds ``vision.*`` in ``model.safetensors``, the detector's weights in
``detector.safetensors`` (a model that uses none lacks it) and ``calibration.json``: the ranges that int8 rounds to.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.compact import image_graphs
from model.compact.detector import MEAN, STRIDES, Detections, NanoDet, detect
from model.compact.storage import load_small
from model.compact.vision import EfficientNetLite, VisionFeatures

logger = logging.getLogger(__name__)

Way = Literal["int8", "float32", "torch"]
Ranges = Mapping[str, tuple[float, float]]
CALIBRATION, DETECTOR = "calibration.json", "detector.safetensors"
_STEP = 16  # pixels: a cell of the detector's features that are used
_NARROWEST = 0.5  # of a long panorama next to nothing would be left

# Before it is imported: ONNX Runtime reports every process and session to its makers, by a thread of its own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class ImageFeatures(NamedTuple):
    """What is seen in images, float32: see `VisionFeatures` and `Detections`.

    ``classes`` ``[images, 1000, h, w]`` are ImageNet's classes as probabilities at each place of stride 32.
    """

    vision: VisionFeatures
    classes: Tensor
    detections: Detections | None


class ImageNetworks(Protocol):
    """The networks, ready to run."""

    way: Way

    def __call__(self, pixels: Tensor, aspects: Sequence[float] | None = None) -> ImageFeatures:
        """``pixels`` uint8 ``[images, side, side, 3]`` RGB -> features on the networks' device. EfficientNet-Lite takes
        them at its own size, the detector in about the proportions that the images had (see `letterboxed`): ``aspects``
        are their widths by their heights (default: all square). Places and boxes are those of ``pixels`` either way."""
        ...


class TorchNetworks:
    """The modules as they are: on any device, and with gradients."""

    way: Way = "torch"

    def __init__(self, vision: EfficientNetLite, detector: NanoDet | None, size: int | None = None) -> None:
        self.vision, self.detector, self.size = vision, detector, size

    def __call__(self, pixels: Tensor, aspects: Sequence[float] | None = None) -> ImageFeatures:
        """See `ImageNetworks`; ``pixels`` ``[images, size, size, 3]`` on any device."""
        pixels = pixels.to(self.vision.stem.weight.device)
        features: VisionFeatures = self.vision(resized(pixels, self.size or pixels.shape[1]))
        classes = self.vision.classify(features.coarse).softmax(1)
        detections = None
        if self.detector is not None:
            boxed, sides = letterboxed(pixels, aspects)
            detections = stretched(self.detector(boxed), sides)
        return ImageFeatures(features, classes, detections)


class OnnxNetworks:
    """The networks as ONNX graphs, made of the modules' weights as they are now. ``ranges`` None: float32."""

    def __init__(
        self, vision: EfficientNetLite, detector: NanoDet | None, size: int, ranges: Ranges | None = None
    ) -> None:
        self.way: Way = "float32" if ranges is None else "int8"
        self.size = size
        graph, self._seen = image_graphs.vision_graph(vision, size, ranges or {})
        self._vision = open_session(graph.model(self._seen))
        self._detector = None
        if detector is not None:
            graph, self._detected = image_graphs.detector_graph(detector, ranges or {})
            self._detector = open_session(graph.model(self._detected))

    def __deepcopy__(self, memo: dict[int, object]) -> OnnxNetworks:
        """Itself: nothing in it can change, and sessions cannot be copied."""
        return self

    def __call__(self, pixels: Tensor, aspects: Sequence[float] | None = None) -> ImageFeatures:
        """See `ImageNetworks`; ``pixels`` ``[images, size, size, 3]`` on the CPU."""
        small = {"pixels": resized(pixels, self.size).numpy()}
        fine, coarse, logits = map(torch.from_numpy, self._vision.run(self._seen, small))
        classes = _maps(logits.softmax(-1), coarse)
        detections = None
        if self._detector is not None:
            boxed, sides = letterboxed(pixels, aspects)
            found = list(map(torch.from_numpy, self._detector.run(self._detected, {"pixels": boxed.numpy()})))
            raw, features = found[: len(found) // 2], tuple(found[len(found) // 2 :])
            maps = [_maps(x, level) for x, level in zip(raw, features, strict=True)]
            detections = stretched(detect(maps, features), sides)
        return ImageFeatures(VisionFeatures(fine, coarse), classes, detections)


def resized(pixels: Tensor, side: int) -> Tensor:
    """uint8 ``[images, height, width, 3]`` -> ``[images, side, side, 3]``."""
    if pixels.shape[1:3] == (side, side):
        return pixels
    planes = F.interpolate(pixels.permute(0, 3, 1, 2).float(), (side, side), mode="bilinear", antialias=True)
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def letterboxed(pixels: Tensor, aspects: Sequence[float] | None) -> tuple[Tensor, list[tuple[int, int]]]:
    """Square images uint8 ``[images, side, side, 3]``, each made narrower or lower until it has the proportions that it
    had before it was made square, at the upper left of a square of one colour, the detector's mean; and the width and
    height of each in pixels, multiples of `_STEP`. Of proportions beyond 2:1 half of the square is kept (`_NARROWEST`).
    ``aspects``: widths by heights, ``[images]``; None: all are square.

    A detector that learned from photographs finds more in them than in distorted ones: benchmarks/results/training.md.
    """
    side = pixels.shape[1]
    sides = []
    for aspect in [1.0] * len(pixels) if aspects is None else aspects:
        shorter = max(_STEP, round(side * max(_NARROWEST, min(aspect, 1 / aspect)) / _STEP) * _STEP)
        sides.append((side, shorter) if aspect > 1 else (shorter, side))
    if all(size == (side, side) for size in sides):
        return pixels, sides
    boxed = torch.tensor(MEAN, device=pixels.device).round().to(torch.uint8).expand(pixels.shape).clone()
    planes = pixels.permute(0, 3, 1, 2)
    for index, (width, height) in enumerate(sides):
        shrunk = F.interpolate(planes[index : index + 1].float(), (height, width), mode="bilinear", antialias=True)
        boxed[index, :height, :width] = shrunk[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
    return boxed, sides


def stretched(found: Detections, sides: Sequence[tuple[int, int]]) -> Detections:
    """What was found in `letterboxed` images with these ``sides``, as if in the square ones."""
    whole = found.features[0].shape[-1] * STRIDES[0]
    if all(size == (whole, whole) for size in sides):
        return found
    shares = found.boxes.new_tensor(sides) / whole
    levels = []
    for level in found.features:
        shape = level.shape[-2:]
        parts = [
            one[None, :, : max(1, round(height * shape[0] / whole)), : max(1, round(width * shape[1] / whole))]
            for one, (width, height) in zip(level, sides, strict=True)
        ]
        levels.append(torch.cat([F.interpolate(part, shape, mode="bilinear", align_corners=False) for part in parts]))
    return Detections(found.scores, found.boxes / shares.repeat(1, 2)[:, None], tuple(levels))


def _maps(places: Tensor, like: Tensor) -> Tensor:
    """``[images, places, channels]`` -> ``[images, channels, h, w]``."""
    return places.transpose(1, 2).view(len(places), -1, *like.shape[-2:])


def open_session(graph: bytes) -> Any:
    """An ``onnxruntime.InferenceSession`` with PyTorch's number of threads, which sleep when there is nothing to do:
    they would spin beside PyTorch's own, and beside other workers. Its memory is malloc's: an arena for each session
    would keep the most that it ever needed, 40 to 190 MiB in all, and is no faster."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session._model_bytes = None  # kept for providers that fail later, of which there is none here: half of all memory
    return session


def choose(
    vision: EfficientNetLite,
    detector: NanoDet | None,
    size: int,
    *,
    ranges: Ranges | None,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
) -> ImageNetworks:
    """The best way that this machine has. ``dtype``: ``auto`` (int8 on a CPU), ``int8``, ``float32`` (and any other
    float type: there is no faster one here), or ``torch``. ``ranges`` None: int8 cannot be had. Says in the log where
    it is not what was asked for."""
    if dtype == "torch" or torch.device(device).type != "cpu":
        return TorchNetworks(vision, detector, size)
    if not has_runtime():
        logger.warning("onnxruntime is not installed or cannot be loaded: all goes through PyTorch, which takes longer")
        return TorchNetworks(vision, detector, size)
    if dtype not in ("auto", "int8"):
        return OnnxNetworks(vision, detector, size)
    if ranges is None:
        logger.warning("the model has no %s: images go through float32, which takes longer than int8", CALIBRATION)
        return OnnxNetworks(vision, detector, size)
    lacking = lacks_for_int8()
    if lacking:
        logger.warning("%s: images go through float32", lacking)
        return OnnxNetworks(vision, detector, size)
    return OnnxNetworks(vision, detector, size, ranges)


def has_runtime() -> bool:
    """Whether ONNX Runtime is installed and can be loaded on this machine."""
    try:
        importlib.import_module("onnxruntime")
    except (ImportError, OSError):
        return False
    return True


def load(folder: Path, device: torch.device | str = "cpu", dtype: str = "auto") -> ImageNetworks:
    """The image networks of a model's folder; see `choose`. With the detector where the folder has one. Raises OSError
    or ValueError where the folder is none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_small(folder / "model.safetensors")
    vision = EfficientNetLite(config["vision"])
    vision.load_state_dict({k.removeprefix("vision."): v for k, v in tensors.items() if k.startswith("vision.")})
    vision.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector = None
    if (folder / DETECTOR).is_file():
        variant = config.get("detector") or ("tiny" if config["vision"] == "tiny" else "nanodet")
        detector = load_detector(folder / DETECTOR, variant).to(device)
    ranges = load_ranges(folder / CALIBRATION)
    return choose(vision, detector, config["size"], ranges=ranges, dtype=dtype, device=device)


def load_detector(file: Path, variant: str = "nanodet") -> NanoDet:
    """The detector of a file that `model.compact.storage.save_small` wrote (names begin with ``detector.``)."""
    net = NanoDet(variant)
    net.load_state_dict({name.removeprefix("detector."): tensor for name, tensor in load_small(file).items()})
    net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def load_ranges(file: Path) -> dict[str, tuple[float, float]] | None:
    """The ranges of a ``calibration.json``, or None where there is no such file. Raises ValueError for another file."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["ranges"]
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} holds no ranges: {error!r}") from error
    if not all(math.isfinite(low) and math.isfinite(high) and low <= high for low, high in ranges.values()):
        raise ValueError(f"{file} holds a range that is none")
    return ranges


def save_ranges(file: Path, ranges: Ranges, **about: object) -> None:
    """Write a ``calibration.json``, a range a line. ``about``: what else to say in it."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(bounds)}" for name, bounds in ranges.items())
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in about.items())
    file.write_text(f'{{\n{head} "ranges": {{\n{lines}\n }}\n}}\n', encoding="utf-8")


def lacks_for_int8(machine: str | None = None, cpu: str | None = None) -> str | None:
    """Why this CPU should not use int8, if so. x86 without VNNI adds pairs of products in 16 bits, which overflow, and
    gains little; ARM has exact ones. ``machine`` and ``cpu`` (/proc/cpuinfo) are there for tests."""
    machine = (machine or platform.machine()).lower()
    if machine in ("arm64", "aarch64"):
        return None
    if machine not in ("x86_64", "amd64"):
        return f"int8 was never tried on {machine}"
    if cpu is None:
        file = Path("/proc/cpuinfo")
        cpu = file.read_text() if file.is_file() else ""
    has_vnni = re.search(r"\b(avx512_vnni|avx_vnni)\b", cpu) is not None
    return None if has_vnni else "the CPU is not known to have VNNI, without which int8 is inexact"
