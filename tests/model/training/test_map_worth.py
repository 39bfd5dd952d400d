"""The tests of maps tell a map that is right from controls that are not."""

import numpy as np
import pytest
import torch
from PIL import Image

from model.interface import Geometry, Region
from model.training.ask import encode_images
from model.training.boards import TILE, make_boards, quadrant
from model.training.data import Captions, DataSet, ImageRef, read_data
from model.training.map_worth import (
    FRACTIONS,
    area,
    centre_map,
    keep_masks,
    measure_maps,
    patch_order,
    with_shuffled_attention,
)
from model.training.metrics import bootstrap
from model.training.report import Evaluation, Row, as_markdown
from tests.model.training.colour_model import COLOURS, ColourModel, square, write_toy_data


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder, 120)
    return read_data(folder)


def test_a_map_that_is_right_beats_every_control(toy: DataSet) -> None:
    rows = {(row.name, row.about): row for row in measure_maps(ColourModel(), toy, "dev", boards=60)}
    controls = ["uniform", "centre", "raw, other question", "raw, random weights"]
    assert [name for name, about in rows if about == "all"] == ["uniform", "centre", "raw", *controls[2:]]
    raw = rows["raw", "image matters"]
    assert raw.deletion is not None
    assert raw.insertion is not None
    for name in controls:
        control = rows[name, "image matters"]
        assert control.deletion is not None
        assert control.insertion is not None
        assert raw.deletion.mean < control.deletion.mean
        assert raw.insertion.mean > control.insertion.mean
        assert control.deletion_gain is None
    assert raw.deletion_gain is not None
    assert raw.insertion_gain is not None
    assert raw.deletion_gain.high < 0 < raw.insertion_gain.low
    pointing = {name: row.pointing for (name, about), row in rows.items() if about == "all"}
    assert pointing["raw"] is not None
    assert pointing["raw"].mean > 0.95
    for name in ("uniform", "centre", "raw, random weights"):
        control_pointing = pointing[name]
        assert control_pointing is not None
        assert control_pointing.mean < 0.6


def test_a_model_that_cannot_mask_is_still_asked_to_point(toy: DataSet) -> None:
    rows = measure_maps(_Unmaskable(), toy, "dev", boards=20)
    assert {row.about for row in rows} == {"all"}
    assert all(row.deletion is None and row.pointing is not None for row in rows)


class _Unmaskable:
    """The same model without `score_masked`."""

    def __init__(self) -> None:
        self._model = ColourModel()
        self.attention = self._model.attention
        self.info = self._model.info

    def encode(self, images):  # type: ignore[no-untyped-def]
        return self._model.encode(images)

    def run(self, task, items):  # type: ignore[no-untyped-def]
        return self._model.run(task, items)


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


def test_ties_are_broken_at_random() -> None:
    rng = np.random.default_rng(0)
    firsts = {int(patch_order(np.zeros((4, 4), np.float32), rng)[0]) for _ in range(200)}
    assert len(firsts) == 16


def test_area_of_known_curves() -> None:
    grid = (0.0, *FRACTIONS, 1.0)
    assert area(grid, np.ones(len(grid))) == pytest.approx(1.0)
    assert area(grid, np.array(grid)) == pytest.approx(0.5)


def test_the_centre_map_is_highest_in_the_middle_and_even() -> None:
    values = centre_map(4, 6)
    assert values.shape == (4, 6)
    assert np.allclose(values, values[::-1])
    assert np.allclose(values, values[:, ::-1])
    assert values.argmax() in (1 * 6 + 2, 1 * 6 + 3, 2 * 6 + 2, 2 * 6 + 3)


def test_masking_all_but_the_square_keeps_the_answer() -> None:
    model = ColourModel()
    (image,) = encode_images(model, [square("blue", 4)])
    seen = np.asarray(square("blue", 4).resize((8, 8), 0))[..., 2] == 255
    keep = np.stack([np.ones((8, 8), bool), seen, ~seen, np.zeros((8, 8), bool)])
    full, only, without, nothing = model.score_masked(image, "What color is the thing?", keep, "blue")
    assert only >= full > 0.9
    assert without == pytest.approx(1 / 3, abs=0.02)
    assert nothing == pytest.approx(1 / 3, abs=1e-6)


def test_quadrants_of_an_image_that_is_not_square() -> None:
    whole = Geometry(200, 100, 4, 8, Region(0, 0, 200, 100))
    assert [quadrant(whole, row, column) for row, column in ((0, 0), (0, 7), (3, 0), (3, 7))] == [0, 1, 2, 3]
    assert quadrant(whole, 1, 3) == 0
    assert quadrant(whole, 2, 4) == 3
    padded = Geometry(200, 100, 4, 4, Region(0, -50, 200, 150))  # rows 0 and 3 are padding
    assert [quadrant(padded, row, 0) for row in range(4)] == [0, 0, 2, 2]
    cropped = Geometry(200, 100, 2, 2, Region(100, 0, 200, 100))
    assert [quadrant(cropped, 0, column) for column in range(2)] == [1, 1]


def captions(name: str, *texts: str) -> Captions:
    return Captions(ImageRef("toy.tar", name), texts, "toy", "dev")


def test_only_one_of_four_is_asked_about() -> None:
    records = [captions("dog", "A black dog is running.", "The dog runs.", "Dog.")]
    records += [captions(f"empty{i}", "An empty road.", "A road.") for i in range(3)]
    records += [captions(f"hidden{i}", "A road.", "Some puppies on a road.") for i in range(20)]
    boards = make_boards(records, 10)
    assert len(boards) == 1
    (board,) = boards
    names = [ref.name for ref in board.refs]
    assert names[board.place] == "dog"
    assert sorted(names) == ["dog", "empty0", "empty1", "empty2"]
    assert board.question in ("What color is the dog?", "What is the dog doing?")


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("Two big dogs in a park.", "How many dogs are there?"),
        ("Three women wait.", "How many women are there?"),
        ("A lonely boat.", "Where is the boat?"),
        ("A red car.", "What color is the car?"),
        ("A girl is jumping.", "What is the girl doing?"),
    ],
)
def test_questions_made_from_captions(caption: str, question: str) -> None:
    records = [captions("target", caption), *(captions(str(i), "An empty road.") for i in range(5))]
    (board,) = make_boards(records, 1)
    assert board.question == question


def test_no_board_where_captions_do_not_suffice() -> None:
    assert make_boards([], 5) == []
    assert make_boards([captions("a", "A dog."), captions("b", "A road."), captions("c", "A road.")], 5) == []
    assert make_boards([captions(str(i), "A dog.") for i in range(9)], 5) == []


def test_a_board_shows_its_images_in_their_places() -> None:
    records = [captions("red", "A dog."), *(captions(name, "A road.") for name in ("green", "blue", "grey"))]
    (board,) = make_boards(records, 1)
    colours = {**COLOURS, "grey": (128, 128, 128)}
    image = board.compose(lambda ref: Image.new("RGB", (100, 30), colours[ref.name]))
    assert image.size == (2 * TILE, 2 * TILE)
    for place, ref in enumerate(board.refs):
        middle = (place % 2 * TILE + TILE // 2, place // 2 * TILE + TILE // 2)
        assert image.getpixel(middle) == colours[ref.name]
    assert board.refs[board.place].name == "red"


def test_maps_in_the_report(toy: DataSet) -> None:
    rows = measure_maps(ColourModel(), toy, "dev", images=6, boards=6)
    accuracy = {"model": bootstrap([1.0], ["a"])}
    evaluation = Evaluation("m", "r", "dev", 1, 1, 0, [Row("a", "all", accuracy, None, None, None, 0.0)], maps=rows)
    lines = [line for line in as_markdown(evaluation).splitlines() if line.startswith("| raw | all | 6 |")]
    assert len(lines) == 1
    assert lines[0].count("[") == 5
