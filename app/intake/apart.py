"""AVIF and HEIC decoded in a process of their own. What their decoders take is not to be known before (a frame may be
larger than its file's header says), so it ends at a bound of memory and of time; a fault in them ends nothing else."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from crosslook.decoding import DamagedData, DecodingError, ImageLimits, RenderedImage, TooLarge, limits

logger = logging.getLogger(__name__)

KINDS = ("AVIF", "HEIC")
SECONDS = 20
"""Of processor time, and twice that in all. 25 million pixels take some 0.8 s."""
BYTES_A_PIXEL = 12  # of the limit; an image may have half of these
_BASE = 512 << 20  # address space of Python and the decoders
_CHILD = Path(__file__).with_name("apart_child.py")


def open_apart(data: bytes, bounds: ImageLimits) -> RenderedImage:
    """As `crosslook.decoding.decode_image`.

    Raises: `DecodingError`: `TooLarge` too where a bound of the process is met, `DamagedData` where the decoder dies.
    """
    order = json.dumps({"limits": asdict(bounds), "memory": _BASE + BYTES_A_PIXEL * bounds.pixels, "seconds": SECONDS})
    try:
        # The arguments are this module's own; the file goes in through a pipe.
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-I", str(_CHILD), order],
            input=data,
            capture_output=True,
            timeout=2 * SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooLarge(f"The image took more than {2 * SECONDS} s to decode.") from None
    end = done.stdout.find(b"\n")
    if done.returncode or end < 0:
        logger.info("image refused: its decoder ended with %s", done.returncode)
        if done.returncode < 0 and b"memory" not in done.stderr.lower():  # a signal: SIGXCPU, SIGKILL, SIGSEGV
            raise DamagedData("The image is damaged, or takes too long to decode.")
        raise TooLarge("The image does not fit in memory.")
    answer = json.loads(done.stdout[:end])
    if "error" in answer:
        error: type[DecodingError] = getattr(limits, answer["error"])
        raise error(answer["message"], **answer["detail"])
    pixels = memoryview(done.stdout)[end + 1 :]  # no copy: they are many
    return RenderedImage(Image.frombytes("RGB", tuple(answer["size"]), pixels), answer["width"], answer["height"])
