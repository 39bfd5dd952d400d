"""AVIF and HEIC, decoded in a process of their own, which ends at its bounds."""

from __future__ import annotations

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from app.errors import RequestError
from app.intake import apart
from app.intake.decode import ImageLimits, open_image
from tests.crosslook.decoding.made import MADE, RGB, exif, saved, turned

LIMITS = ImageLimits(file_bytes=20 << 20, pixels=4_000_000, side=16_384, min_side=8)


def heic(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    """A HEIC file."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    pillow_heif.from_pillow(image).save(buffer, quality=95, chroma=444, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["AVIF 1", "AVIF 6", "AVIF P3", "AVIF RGBA"])
def test_an_avif_is_as_the_client_sees_it(name: str) -> None:
    made = MADE[name]
    found = open_image(made.data, LIMITS)
    assert (found.height, found.width) == made.pixels.shape[:2]
    assert np.abs(np.asarray(found.image).astype(int) - made.pixels).max() <= 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_heic_is_turned_once(orientation: int) -> None:
    """libheif turns it as its container says; its EXIF says the same, and must not turn it again."""
    found = open_image(heic(RGB, exif=exif(orientation)), LIMITS)
    expected = turned(RGB, orientation)
    assert (found.height, found.width) == expected.shape[:2]
    assert np.abs(np.asarray(found.image).astype(int) - expected).mean() < 3


def test_a_heic_with_alpha() -> None:
    half = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    half.paste((0, 0, 0, 0), (32, 0, 64, 64))
    seen = open_image(heic(half), LIMITS).image
    assert max(seen.getpixel((4, 4))) < 8  # type: ignore[type-var, arg-type]
    assert min(seen.getpixel((60, 4))) > 247  # type: ignore[type-var, arg-type]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (saved(RGB, "AVIF")[:-40], "image_broken"),
        (heic(RGB)[:-100], "image_broken"),
        (saved(RGB, "AVIF")[:60], "image_broken"),
        (saved(Image.new("RGB", (2001, 1000)), "AVIF"), "image_too_large"),
        (heic(Image.new("RGB", (2001, 1000))), "image_too_large"),
        (heic(Image.new("RGB", (64, 4))), "image_too_small"),
    ],
    ids=["AVIF cut", "HEIC cut", "AVIF of a header", "AVIF large", "HEIC large", "HEIC small"],
)
def test_errors_come_through(data: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_image(data, LIMITS)
    assert caught.value.code == code


def test_a_process_out_of_memory_or_of_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the request has an error; nothing of ours ends with it."""
    data = saved(Image.new("RGB", (1800, 1000)), "AVIF")
    with monkeypatch.context() as patch:
        patch.setattr(apart, "_BASE", 20 << 20)
        patch.setattr(apart, "BYTES_A_PIXEL", 0)
        with pytest.raises(RequestError) as caught:
            open_image(data, LIMITS)
        assert caught.value.code in ("image_too_large", "image_broken")
    monkeypatch.setattr(apart, "SECONDS", 0.01)
    with pytest.raises(RequestError) as caught:
        open_image(data, LIMITS)
    assert caught.value.code == "image_too_large"
