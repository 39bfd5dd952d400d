"""Which ranges the image networks' tensors are rounded to: measured on some images, in float32.

A range is the mean, over the images, of each image's least and greatest value. It is narrower than what occurs at all:
rare values are cut, all others are finer. Against percentiles, least squared error and the outermost values, by the
error of the features on other photographs, it was the best for the detector and as good as the best for the
EfficientNet.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from model.compact import image_graphs
from model.compact.detector import NanoDet
from model.compact.image_networks import open_session, resized
from model.compact.vision import EfficientNetLite


def measure_ranges(
    vision: EfficientNetLite, detector: NanoDet | None, size: int, images: Iterable[NDArray[np.uint8]]
) -> dict[str, tuple[float, float]]:
    """The range of every tensor that may be rounded. ``images`` uint8 ``[side, side, 3]``, at least one, of
    which the detector takes all and EfficientNet-Lite ``size``. Raises ValueError without images.

    The detector's ranges are of the squares as they are; what it gets when it serves is `letterboxed`, with the sides
    that images had."""
    graphs = [image_graphs.vision_graph(vision, size, {})[0]]
    if detector is not None:
        graphs.append(image_graphs.detector_graph(detector, {})[0])
    sessions = [(graph.measured, open_session(graph.model(graph.measured))) for graph in graphs]
    found: dict[str, list[tuple[float, float]]] = {}
    for image in images:
        pixels = torch.from_numpy(image[None])
        for (names, session), taken in zip(sessions, (resized(pixels, size), pixels), strict=False):
            for name, values in zip(names, session.run(names, {"pixels": taken.numpy()}), strict=True):
                found.setdefault(name, []).append((float(values.min()), float(values.max())))
    if not found:
        raise ValueError("no images to measure")
    ranges = {}
    for name, bounds in found.items():
        low, high = np.mean(bounds, 0)
        ranges[name] = float(f"{low:.5g}"), float(f"{high:.5g}")
    return ranges
