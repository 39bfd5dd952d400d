"""The controls know nothing of what the model looked at, and differ from it in nothing else."""

import numpy as np
import pytest
import torch

from model.evaluation.map_controls import (
    MapMaker,
    Variant,
    another,
    centre_map,
    patch_order,
    variants_of,
    with_shuffled_attention,
)
from tests.fakes.colour_model import ColourModel, square


def test_shuffled_attention_is_a_copy_of_equal_sharpness() -> None:
    model = ColourModel()
    shuffled = with_shuffled_attention(model)
    assert isinstance(shuffled, ColourModel)
    before, after = model.attention.wk.weight, shuffled.attention.wk.weight
    assert torch.equal(before, torch.eye(4) * 10), "the model itself is untouched"
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_a_model_without_cross_attention_has_nothing_to_shuffle() -> None:
    model = ColourModel()
    model.attention = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no CrossAttention"):
        with_shuffled_attention(model)


def test_ties_are_broken_at_random() -> None:
    rng = np.random.default_rng(0)
    firsts = {int(patch_order(np.zeros((4, 4), np.float32), rng)[0]) for _ in range(200)}
    assert len(firsts) == 16


def test_the_centre_map_is_highest_in_the_middle_and_even() -> None:
    values = centre_map(4, 6)
    assert values.shape == (4, 6)
    assert np.allclose(values, values[::-1])
    assert np.allclose(values, values[:, ::-1])
    assert values.argmax() in (1 * 6 + 2, 1 * 6 + 3, 2 * 6 + 2, 2 * 6 + 3)


def test_what_can_be_measured() -> None:
    info = ColourModel().info
    assert [v.name for v in variants_of(info)] == ["raw"]
    assert [v.name for v in variants_of(info, ["raw"], [None, (0,)])] == ["raw", "raw [0]"]
    with pytest.raises(ValueError, match="makes maps of kind raw, not gradient"):
        variants_of(info, ["gradient"])
    with pytest.raises(ValueError, match=r"has the layers \[0\], not \[1\]"):
        variants_of(info, layers=[(1,)])


def test_another_text_is_one_that_differs() -> None:
    assert [another(["a", "a", "b"], i) for i in range(3)] == ["b", "b", "a"]
    assert another(["a", "a"], 0) is None


def test_each_map_is_of_what_its_name_says() -> None:
    model = ColourModel()
    maker = MapMaker(model, "answer", [Variant("raw")])
    image = square("red", 1)
    image.paste(square("blue", 2).crop((0, 0, 64, 32)))
    texts, others = ["What color is the dog?", "??"], ["What color is the car?", "Where?"]
    made, refused = maker([image, image], texts, others)
    assert refused is None, "one refused text harms no other"
    assert made is not None
    assert list(made.maps) == ["uniform", "centre", "raw", "raw, other question", "raw, random weights"]
    own = MapMaker(model, "answer", [Variant("raw")], controls=False)
    (dog,), (car,) = own([image], texts[:1], [None]), own([image], others[:1], [None])
    assert dog is not None
    assert car is not None
    assert list(dog.maps) == ["raw"]
    assert np.array_equal(made.maps["raw"], dog.maps["raw"])
    assert np.array_equal(made.maps["raw, other question"], car.maps["raw"])
    assert not np.array_equal(dog.maps["raw"], car.maps["raw"])
    assert not np.array_equal(made.maps["raw, random weights"], dog.maps["raw"])
    assert not made.maps["uniform"].any()
