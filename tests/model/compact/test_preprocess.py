"""Image to pixels: what the model is given, and what the geometry says of it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from model.compact.preprocess import Squash
from model.interface import Geometry, Region
from tests.model.tools import noise


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (31, 977), (977, 31), (8, 8), (3001, 17)])
def test_every_size_becomes_the_square_and_keeps_its_region(size: tuple[int, int]) -> None:
    width, height = size
    pixels = Squash(64, 4, 4)(noise(0, max(5, width), max(5, height)).resize(size))
    assert pixels.values.shape == (64, 64, 3)
    assert pixels.values.dtype == np.uint8
    assert pixels.geometry == Geometry(width, height, 4, 4, Region(0.0, 0.0, float(width), float(height)))


def test_an_image_decoded_smaller_keeps_its_original_size() -> None:
    pixels = Squash(64, 4, 4)(noise(), original_size=(900, 500))
    assert (pixels.geometry.width, pixels.geometry.height) == (900, 500)
    assert pixels.geometry.region == Region(0.0, 0.0, 900.0, 500.0)


def test_an_image_of_the_right_size_is_unchanged() -> None:
    image = noise(1, 65, 65).crop((0, 0, 64, 64))
    assert np.array_equal(Squash(64, 4, 4)(image).values, np.asarray(image))


def test_both_axes_are_squashed_each_by_its_own_factor() -> None:
    """Left half red and upper half green, whatever the proportions."""
    image = Image.new("RGB", (300, 40))
    image.paste((255, 0, 0), (0, 0, 150, 40))
    image.paste((0, 255, 0), (0, 0, 300, 20))
    values = Squash(64, 4, 4)(image).values
    assert values[8, 8].tolist() == values[8, 56].tolist() == [0, 255, 0]
    assert values[56, 8].tolist() == [255, 0, 0]
    assert values[56, 56].tolist() == [0, 0, 0]


def test_it_travels_between_processes_and_needs_no_torch() -> None:
    squash = Squash(64, 4, 4)
    assert pickle.loads(pickle.dumps(squash)) == squash  # noqa: S301
    code = "import sys, model.compact.preprocess, model.interface; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
