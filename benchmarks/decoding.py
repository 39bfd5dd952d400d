"""Ways from a JPEG to the model's pixels, and from decoder to worker: ``python -m benchmarks.decoding``.

One thread; medians of the process's own CPU time, so that others on the machine count little. Libraries that are not
installed are left out (``pip install pyvips pyvips-binary simplejpeg``; OpenCV comes with the extra ``reading``).
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import shared_memory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.intake import decode, images
from benchmarks.machine import append_result, describe_machine, load_average, table
from benchmarks.model import EXAMPLE
from model.compact.preprocess import Squash

SIDE, SIZES = 416, ((640, 480), (1600, 1200), (4000, 3000))
LIMITS = decode.ImageLimits(20 << 20, 50_000_000, 16_384, 8)


def milliseconds(action: Callable[[], object], repeats: int = 15) -> float:
    """The median CPU time of an action, after two runs that do not count."""
    times = []
    for repeat in range(-2, repeats):
        start = time.process_time()
        action()
        if repeat >= 0:
            times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def ways(data: bytes, width: int, height: int) -> dict[str, Callable[[], object]]:
    """Each gives RGB pixels ``[SIDE, SIDE, 3]``; ours after all checks, from twice the size as in training."""

    def pillow() -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (SIDE, SIDE))
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0))

    load = images.loader(data, LIMITS)
    found: dict[str, Callable[[], object]] = {
        "ours": lambda: load(Squash(SIDE, 20, 20)),
        "ours, with the grey image for reading": lambda: load(Squash(SIDE, 20, 20, 960)),
        "Pillow from the next larger size": pillow,
    }
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        scale = max(n for n in (1, 2, 4, 8) if n == 1 or min(width, height) // n >= SIDE)
        flag = cv2.IMREAD_COLOR if scale == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{scale}")

        def shrink(pixels: NDArray[np.uint8]) -> object:
            return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

        found["OpenCV"] = lambda: cv2.cvtColor(
            shrink(cv2.imdecode(np.frombuffer(data, np.uint8), flag)), cv2.COLOR_BGR2RGB
        )
        if find_spec("simplejpeg"):
            import simplejpeg

            found["libjpeg-turbo (simplejpeg), OpenCV"] = lambda: shrink(
                simplejpeg.decode_jpeg(data, min_height=SIDE, min_width=SIDE, min_factor=1)
            )
    if find_spec("pyvips"):
        os.environ["VIPS_CONCURRENCY"] = "1"
        import pyvips

        found["libvips (pyvips)"] = lambda: np.asarray(
            pyvips.Image.thumbnail_buffer(data, SIDE, height=SIDE, size="force", no_rotate=True)
        )
    return found


def main() -> int:
    """Measure, print, keep."""
    with Image.open(EXAMPLE) as image:
        source = image.convert("RGB")
    columns: dict[str, list[str]] = {}
    for width, height in SIZES:
        buffer = io.BytesIO()
        ImageOps.fit(source, (width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        for name, way in ways(buffer.getvalue(), width, height).items():
            columns.setdefault(name, []).append(f"{milliseconds(way):.1f}")
    rows = [[name, *figures] for name, figures in columns.items()]
    pixels = images.loader(buffer.getvalue(), LIMITS)(Squash(SIDE, 20, 20, 960))
    packed = pickle.dumps(pixels, pickle.HIGHEST_PROTOCOL)
    shared = shared_memory.SharedMemory(create=True, size=len(packed))
    there, ours = np.ndarray((len(packed),), np.uint8, shared.buf), np.frombuffer(packed, np.uint8)

    def through_socket() -> None:
        one, other = socket.socketpair()
        sender = threading.Thread(target=one.sendall, args=(packed,))
        sender.start()
        left = len(packed)
        while left > 0:
            left -= len(other.recv(1 << 20))
        sender.join()
        one.close()
        other.close()

    def copied() -> None:
        there[:] = ours

    crossing = {
        "pickle": milliseconds(lambda: pickle.dumps(pixels, pickle.HIGHEST_PROTOCOL), 100),
        "unpickle": milliseconds(lambda: pickle.loads(packed), 100),  # noqa: S301 - just packed here
        "through a socket": milliseconds(through_socket, 60),
        "a copy into shared memory": milliseconds(copied, 100),
    }
    shared.unlink()
    text = (
        f"{describe_machine()}, {load_average()}; CPU milliseconds.\n\n**JPEG to {SIDE} x {SIDE} pixels**\n\n"
        + table(["", *(f"{width}x{height}" for width, height in SIZES)], rows)
        + f"\n**{len(packed) / 1e6:.1f} MB from the server to its worker**: "
        + ", ".join(f"{name} {value:.2f} ms" for name, value in crossing.items())
        + ".\n"
    )
    print(text)
    if "--no-save" not in sys.argv:
        append_result("decoding", "Decoding", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
