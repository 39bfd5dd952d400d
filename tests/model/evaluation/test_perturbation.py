"""Deletion and insertion: masks, curves, and what they track."""

import numpy as np
import pytest

from model.evaluation.ask import encode_images
from model.evaluation.data import DataSet
from model.evaluation.map_controls import MapMaker, Variant, patch_order
from model.evaluation.perturbation import FRACTIONS, area, keep_masks, perturb
from tests.fakes.colour_model import ColourModel, square


def test_masks_follow_the_order_of_the_map() -> None:
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    order = patch_order(values, np.random.default_rng(0))
    assert order.tolist() == list(range(19, -1, -1))
    masks = keep_masks(order, (4, 5))
    assert masks.shape == (2 * len(FRACTIONS), 4, 5)
    for i, fraction in enumerate(FRACTIONS):
        count = max(1, round(20 * fraction))
        assert not masks[i].ravel()[order[:count]].any()
        assert masks[i].sum() == 20 - count
        assert np.array_equal(masks[len(FRACTIONS) + i], ~masks[i])


def test_area_of_known_curves() -> None:
    grid = (0.0, *FRACTIONS, 1.0)
    assert area(grid, np.ones(len(grid))) == pytest.approx(1.0)
    assert area(grid, np.array(grid)) == pytest.approx(0.5)


def test_masking_all_but_the_square_keeps_the_answer() -> None:
    model = ColourModel()
    (image,) = encode_images(model, [square("blue", 4)])
    seen = np.asarray(square("blue", 4).resize((8, 8), 0))[..., 2] == 255
    keep = np.stack([np.ones((8, 8), bool), seen, ~seen, np.zeros((8, 8), bool)])
    full, only, without, nothing = model.score_masked(image, "What color is the thing?", keep, "blue")
    assert only >= full > 0.9
    assert without == pytest.approx(1 / 3, abs=0.02)
    assert nothing == pytest.approx(1 / 3, abs=1e-6)


def test_the_curves_of_a_map_that_is_right(toy: DataSet) -> None:
    """The answer hangs on one cell: without it the probability is a third at once, with it alone it is all there."""
    curves = perturb(MapMaker(ColourModel(), "answer", [Variant("raw")]), toy, "dev", texts=1)
    assert len(curves.images) == len(set(curves.images)) == 60
    asked = [i for i, matters in enumerate(curves.matters) if matters]
    assert len(asked) > 30
    deletion, insertion = (np.array(curve["raw"])[asked] for curve in (curves.deletion, curves.insertion))
    # From 1 to a third within the first 5% of the patches, and from a third to 1.
    full = 1.0
    assert deletion.mean() == pytest.approx(1 / 3 + 0.025 * (full - 1 / 3), abs=0.02)
    assert insertion.mean() == pytest.approx(full - 0.025 * (full - 1 / 3), abs=0.02)
    uniform = np.array(curves.deletion["uniform"])[asked]
    assert 0.5 < uniform.mean() < 0.8, "a single cell goes, on average, half way"


def test_fewer_images_when_asked(toy: DataSet) -> None:
    maker = MapMaker(ColourModel(), "answer", [Variant("raw")])
    few, again = (perturb(maker, toy, "dev", images=5, texts=1, seed=3) for _ in range(2))
    assert few == again
    assert len(few.images) == 5
    more = perturb(maker, toy, "dev", images=5, texts=2, seed=3)
    assert more.images[:5] == few.images
    assert len(set(more.images)) == 5
    assert 5 < len(more.images) <= 10
    assert {name: values[:5] for name, values in more.deletion.items()}["centre"] == few.deletion["centre"]
    assert perturb(maker, toy, "nothing").images == []
