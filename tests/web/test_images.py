"""The page shows an image as the server and the overlay see it: turned by the same rules, in the same colours, on
white. So a map that the server places lies right over what the browser draws."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.app.servers import Server
from tests.crosslook.decoding import made, made_bmp

pytestmark = pytest.mark.long

MADE = {name: each for name, each in (made.MADE | made_bmp.MADE).items() if each.browser == "same"}
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "BMP": "image/bmp", "AVIF": "image/avif"}
PAGE = ["JPEG EXIF 6", "JPEG XMP turned", "WebP EXIF 6", "PNG XMP turned", "PNG eXIf 6", "AVIF 6", "JPEG P3 turned",
        "PNG swapped", "AVIF Adobe", "PNG RGBA 8", "PNG palette 4 tRNS", "PNG P3 alpha", "WebP RGBA", "JPEG CMYK",
        "GIF frame half its screen", "BMP fields 4444"]  # fmt: skip
DECODE = """async ([type, text]) => {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type }));
  await image.decode();
  return image;
}"""
READ = """image => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  return [canvas.width, canvas.height, Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data)];
}"""


def pixels(read: tuple[int, int, list[int]]) -> np.ndarray:
    """RGB ``[height, width, 3]`` of what `READ` gave."""
    width, height, values = read
    return np.array(values).reshape(height, width, 4)[..., :3]


def test_chromium_draws_every_made_image_so(opened: Any, server: Server) -> None:
    """All that it shows, straight into a canvas."""
    page = opened(server.url).page
    wrong = {}
    for name, expected in MADE.items():
        source = [TYPES.get(name.split()[0], "image/webp"), base64.b64encode(expected.data).decode()]
        image = page.evaluate_handle(DECODE, source)
        drawn = pixels(image.evaluate(READ))
        same = drawn.shape == expected.pixels.shape
        worst = int(np.abs(drawn - expected.pixels).max()) if same else drawn.shape
        if not same or worst > 2:
            wrong[name] = worst
    assert wrong == {}


@pytest.mark.parametrize("name", PAGE)
def test_the_page_shows_what_the_overlay_is_drawn_on(name: str, opened: Any, server: Server, tmp_path: Path) -> None:
    """The image of the page beside the overlay without its map; and the map's own image has the same shape."""
    expected = MADE[name]
    path = tmp_path / f"{re.sub('[^a-z0-9]', '-', name.lower())}.{name.split()[0].lower()}"
    path.write_bytes(expected.data)
    watched = opened(server.url)
    watched.open_file(path)
    shown = pixels(watched.page.locator("#image").evaluate(READ))
    fields = {"question": "What is this?", "opacity": "0", "legend": "false"}
    response = httpx.post(f"{server.url}/v1/overlay", files={"image": ("a", expected.data)}, data=fields, timeout=60)
    assert response.status_code == 200, response.text
    overlay = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB")).astype(int)
    assert shown.shape == overlay.shape == expected.pixels.shape
    assert np.abs(shown - overlay).max() <= 2
    answer = watched.ask("What is this?")
    assert (answer["image"]["height"], answer["image"]["width"]) == shown.shape[:2]
