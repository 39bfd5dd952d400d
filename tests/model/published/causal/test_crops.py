"""Gemma 3's crops of long images: cut as transformers' own processor cuts them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.published.causal.tiles import PanAndScan
from model.published.loading import load
from tests.model.published.causal.pairs import CausalPair, image_processor
from tests.model.published.checkpoints import make_image

SIZES = ((64, 64), (70, 60), (90, 60), (48, 80), (301, 20), (500, 40), (40, 333), (33, 100), (120, 15))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("least", "most", "ratio"), [(16, 3, 1.2), (16, 8, 1.5), (40, 4, 1.2)])
def test_crops_are_those_of_the_processor(size: tuple[int, int], least: int, most: int, ratio: float) -> None:
    settings = {"pan_and_scan_min_crop_size": least, "pan_and_scan_max_num_crops": most, "do_pan_and_scan": True}
    settings |= {"pan_and_scan_min_ratio_to_activate": ratio, "do_normalize": False}
    processor = image_processor("Gemma3", size={"height": 32, "width": 32}, **settings)
    image = make_image(*size)
    theirs = processor(image, return_tensors="np")
    ours = PanAndScan(32, 4, least, most, ratio, 2)(image)
    rows, columns = ours.sizes
    assert theirs["num_crops"].tolist() == [rows * columns]
    own = [ours.values, *([] if ours.tiles is None else ours.tiles)]
    np.testing.assert_allclose(np.stack(own).transpose(0, 3, 1, 2) / 255, theirs["pixel_values"], atol=1e-6)
    assert (ours.geometry.rows, ours.geometry.columns) == (4 * max(1, rows), 4 * max(1, columns))


@pytest.mark.parametrize("most", [2, 3, 7, 16])
def test_no_crop_is_empty(most: int) -> None:
    preprocess = PanAndScan(4, 2, most, most, 1.0, 2)
    for length in range(most, 20 * most):
        preprocess(make_image(length, most))
        preprocess(make_image(most, length))


def test_settings_that_make_no_sense_are_refused(pairs: Callable[[str], CausalPair], tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    shutil.copytree(pairs("gemma3_crops").folder, folder)
    (path,) = folder.glob("*processor_config.json")
    settings = json.loads(path.read_text())
    for name, value in (
        ("pan_and_scan_min_crop_size", 0),
        ("pan_and_scan_min_crop_size", 1),  # of three crops of 4 pixels the last would be empty
        ("pan_and_scan_max_num_crops", 1000),
        ("pan_and_scan_min_ratio_to_activate", "wide"),
    ):
        path.write_text(json.dumps(settings | {name: value}))
        with pytest.raises(ValueError, match="pan and scan"):
            load(folder, id="crops")
