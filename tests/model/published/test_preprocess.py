"""Preprocessing is transformers' own, pixel for pixel, and the geometry says which part of the image it kept."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.interface import Region
from model.published.family import to_input
from model.published.preprocess import Resize, read_processor
from tests.model.published.checkpoints import image_processor, make_image

SHAPES = [(90, 50), (50, 90), (64, 64), (451, 300), (300, 451), (33, 200), (1000, 999)]
SQUASH = {"size": {"height": 48, "width": 48}}
CROP = {"size": {"shortest_edge": 52}, "crop_size": {"height": 48, "width": 48}}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("family", "options"), [("Blip", SQUASH), ("CLIP", CROP), ("Siglip", SQUASH)])
def test_pixels_equal_transformers(
    family: str, options: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    processor = image_processor(family, **options)
    processor.save_pretrained(tmp_path)
    resize, normalization = read_processor(tmp_path, 48, 16)
    image = make_image(*shape)
    expected = torch.as_tensor(np.asarray(processor(image)["pixel_values"]))
    found = to_input([resize(image)], normalization, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_region_of_a_crop(shape: tuple[int, int]) -> None:
    """A mark at the region's edge is at the crop's edge; the region is in pixels of the image."""
    resize = Resize(48, 48, 3, 3, short=52)
    geometry = resize(make_image(*shape)).geometry
    region = geometry.region
    scale = min(shape) / 52
    assert (region.right - region.left) == pytest.approx(48 * scale, rel=0.02)
    assert (region.bottom - region.top) == pytest.approx(48 * scale, rel=0.02)
    assert (region.left + region.right) / 2 == pytest.approx(shape[0] / 2, abs=scale)
    assert (region.top + region.bottom) / 2 == pytest.approx(shape[1] / 2, abs=scale)
    marked = Image.new("RGB", shape)
    corner = (round(region.left), round(region.top), round(region.left + 16 * scale), round(region.top + 16 * scale))
    marked.paste((255, 255, 255), corner)
    cells = resize(marked).values[..., 0].reshape(3, 16, 3, 16).mean((1, 3))
    assert cells[0, 0] > 220
    assert np.delete(cells.ravel(), 0).max() < 40


def test_the_region_of_a_squashed_image_is_all_of_it() -> None:
    assert Resize(48, 48, 3, 3)(make_image(90, 50)).geometry.region == Region(0.0, 0.0, 90.0, 50.0)


def test_a_very_long_image_costs_no_memory_beyond_its_crop() -> None:
    """Its shorter side becomes 224; all of it would then be 300 megapixels."""
    image = Image.new("RGB", (16384, 8), (10, 20, 30))
    pixels = Resize(224, 224, 14, 14, short=224)(image)
    assert pixels.values.shape == (224, 224, 3)
    assert pixels.values.reshape(-1, 3).max(0).tolist() == [10, 20, 30]


def test_preprocessing_travels_and_tells_its_size() -> None:
    """The service pickles it, and decodes images no larger than it needs."""
    resize = Resize(48, 48, 3, 3, short=52)
    assert pickle.loads(pickle.dumps(resize)) == resize  # noqa: S301
    assert resize.size == 52


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": {"height": 32, "width": 32}}, "its vision tower takes"),
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 48}, "too small"),
        ({"size": {"shortest_edge": 10**9}, "do_center_crop": True, "crop_size": 48}, "too large"),
        (None, "preprocessor_config"),
        ([], "no mapping"),
        ({"size": None}, "its size None is no size"),
        ({"size": [48, 48]}, "its size .* is no size"),
        ({"size": {"height": "48"}}, "its size .* is no size"),
        ({"size": 48, "do_center_crop": True, "crop_size": {"height": -48}}, "its crop_size .* is no size"),
        ({"resample": 99}, "its resample 99"),
        ({"resample": None}, "its resample None"),
        ({"image_std": [0, 0, 0]}, "image_std must be 3 finite numbers above 0"),
        ({"image_std": [0.5, 0.5, 1e-60]}, "image_std must be 3 finite numbers above 0"),
        ({"image_std": [math.nan] * 3}, "image_std must be"),
        ({"image_mean": [math.inf] * 3}, "image_mean must be"),
        ({"image_mean": [0.5]}, "image_mean must be"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean must be"),
        ({"rescale_factor": 0}, "rescale_factor must be 1 finite number"),
    ],
)
def test_a_processor_that_does_not_fit(config: Any, message: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        read_processor(tmp_path, 48, 16)


def test_the_newer_file_is_read_too(tmp_path: Path) -> None:
    inner = {"size": {"height": 48, "width": 48}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    resize, normalization = read_processor(tmp_path, 48, 16)
    assert resize.resample == Image.Resampling.BILINEAR
    assert normalization.mean == (0.5, 0.5, 0.5)
