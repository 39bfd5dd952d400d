"""The lines of text in an image: found and recognised by PP-OCR, through RapidOCR on ONNX Runtime.

RapidOCR is the extra ``reading``; where it is not installed, `load_reader` says so. Detection and recognition are
PP-OCRv6's small networks, Latin and Chinese script, which the package brings with it (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.progress import step

_SHORTER_SIDE = 736  # smaller images are enlarged to it: at 480, in half the time, small numbers on buses go unseen
_LEAST_CONFIDENCE = 0.5
_LEAST_BOX = 0.3  # of a box of text; at PP-OCR's own 0.5, 71 of 203 texts that are asked for are found, here 78
_MOST_ASPECT = 5
"""The longer side by the shorter, at most: RapidOCR enlarges the shorter one, so a strip of one pixel's height would
become gigabytes. A longer strip is read with room beside it."""
MOST_LINES = 64
"""Lines that are recognised, the tallest: each takes some 10 ms of the worker, and an image has room for a thousand."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text. ``box`` is left, top, right, bottom of the upright rectangle around it, as shares of the
    image's width and height; ``height`` the letters', as a share of the image's; ``confidence`` the recogniser's, 0 to
    1."""

    text: str
    box: tuple[float, float, float, float]
    height: float
    confidence: float


Reader = Callable[[NDArray[np.uint8]], tuple[Line, ...]]
"""A grey image ``[height, width]`` -> its lines, in reading order."""


def can_read() -> bool:
    """Whether what reading needs is installed."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))


def load_reader(threads: int = 1) -> Reader | None:
    """A reader on ``threads`` CPU threads; None where the extra ``reading`` is not installed. RapidOCR and its networks
    are loaded when first used: it takes a second that only a question for text should cost."""
    return PaddleReader(threads) if can_read() else None


class PaddleReader:
    """See `Reader`."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._engine: Any = None

    def __deepcopy__(self, memo: dict[int, object]) -> PaddleReader:
        """Another that loads its own: sessions cannot be copied."""
        return PaddleReader(self.threads)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Line, ...]:
        """The lines of a grey image ``[height, width]``, in reading order."""
        step()
        if self._engine is None:
            self._engine = self._load()
        found = self._engine(np.repeat(_with_room(image)[..., None], 3, axis=-1))
        if found.boxes is None:
            return ()
        size = np.array([image.shape[1], image.shape[0]], dtype=np.float64)
        lines = zip(found.boxes, found.txts, found.scores, strict=True)
        return tuple(_line(corners, size, text, float(score)) for corners, text, score in lines if text.strip())

    def _load(self) -> Any:
        from rapidocr import RapidOCR

        class Bounded(RapidOCR):  # type: ignore[misc]
            """Recognises no more than `MOST_LINES` of the lines that it finds."""

            def detect_and_crop(self, *args: Any) -> tuple[list[NDArray[np.uint8]], Any]:
                crops, found = super().detect_and_crop(*args)
                if len(crops) > MOST_LINES:
                    tallest = sorted(range(len(crops)), key=lambda i: -crops[i].shape[0])[:MOST_LINES]
                    kept = sorted(tallest)
                    crops, found.boxes = [crops[i] for i in kept], found.boxes[kept]
                    found.scores = [found.scores[i] for i in kept]
                return crops, found

        return Bounded(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # of lines upside down
                "Global.text_score": _LEAST_CONFIDENCE,
                "Det.box_thresh": _LEAST_BOX,
                "Det.limit_type": "min",
                "Det.limit_side_len": _SHORTER_SIDE,
                "EngineConfig.onnxruntime.intra_op_num_threads": self.threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )


def _with_room(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A strip ``[height, width]`` with its edge repeated, below or to the right, to `_MOST_ASPECT`."""
    least = -(-max(image.shape) // _MOST_ASPECT)
    return np.pad(image, [(0, max(0, least - side)) for side in image.shape], mode="edge")


def _line(corners: NDArray[np.floating[Any]], size: NDArray[np.float64], text: str, confidence: float) -> Line:
    """``corners`` ``[4, 2]`` in pixels: top left, top right, bottom right, bottom left of the text."""
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    height = float(min(sides[0] + sides[2], sides[1] + sides[3])) / 2
    left, top = np.clip(corners.min(0) / size, 0.0, 1.0)
    right, bottom = np.clip(corners.max(0) / size, 0.0, 1.0)
    box = (float(left), float(top), float(right), float(bottom))
    return Line(" ".join(text.split()), box, height / float(size[1]), confidence)
