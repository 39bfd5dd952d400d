"""Every made file has the pixels that it stands for, to two grey levels: with the client's and the server's code, and
what Pillow opened is rendered alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from app.intake import decode
from crosslook.decoding import ImageLimits, decode_image
from crosslook.images import read_image
from crosslook.overlay import open_image
from tests.crosslook.decoding import made, made_bmp, made_tiff

MADE = made.MADE | made_bmp.MADE | made_tiff.MADE
LIMITS = ImageLimits(file_bytes=1_000_000, pixels=1_000_000, side=1000, min_side=1)
# Kinds that Pillow itself misreads, does not open or turns by other rules: as files they are right, and once Pillow has
# opened them it is too late.
PILLOWS = (
    *(
        "BMP",
        "TIFF float > deflated",
        "in planes",
        "without its end",
        "12 bits packed, white",
        "16 bits > plain, white",
    ),
    *("16 bits > deflated, white", "WEBP animation", "grey 2 tRNS", "grey 4 tRNS", "RGB 16 tRNS", "eXIf behind"),
    "damaged t",
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def worst(image: Image.Image, pixels: np.ndarray) -> int:
    """The largest difference of any sample."""
    assert image.mode == "RGB"
    assert (image.height, image.width, 3) == pixels.shape
    return int(np.abs(np.asarray(image).astype(int) - pixels).max())


@pytest.mark.parametrize("name", MADE)
def test_a_file_has_the_pixels_that_it_stands_for(name: str) -> None:
    made = MADE[name]
    assert worst(open_image(made.data), made.pixels) <= 2
    if not name.startswith("AVIF"):  # these have a process of their own: see tests/app/intake
        found = decode.open_image(made.data, LIMITS)
        assert (found.height, found.width) == made.pixels.shape[:2]
        assert worst(found.image, made.pixels) <= 2


@pytest.mark.parametrize("name", [name for name in MADE if not any(part in name for part in PILLOWS)])
def test_what_pillow_opened_is_sent_and_drawn_on_alike(name: str) -> None:
    made = MADE[name]
    assert worst(open_image(Image.open(io.BytesIO(made.data))), made.pixels) <= 2
    sent = read_image(Image.open(io.BytesIO(made.data))).data
    assert sent is not None
    assert worst(decode_image(sent).image, made.pixels) <= 2
    assert b"iCCP" not in sent  # its colours are sRGB now


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_the_alpha_of_every_mode_of_pillow(mode: str) -> None:
    """Half transparent black is grey, and what is transparent white, in the overlay as on the wire."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    if mode == "PA":
        converted = Image.new("PA", (8, 8))
        converted.putpalette([0, 0, 0])
        converted.putalpha(image.getchannel("A"))
    else:
        converted = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    assert converted.mode == mode
    sent = read_image(converted).data
    assert sent is not None
    for seen in (open_image(converted), decode_image(sent).image):
        assert seen.getpixel((1, 1)) == (127, 127, 127)
        assert seen.getpixel((6, 1)) == (255, 255, 255)
