"""Collages: only one of the four images answers, and where it is is known."""

import json
from pathlib import Path

import pytest
from PIL import Image

from model.evaluation.collages import TILE, make_collages, quadrant
from model.evaluation.data import Captions, ImageRef, read_data
from model.evaluation.pointing import collages_of
from model.interface import Geometry, Region
from tests.fakes.colour_model import COLOURS


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
    collages = make_collages(records, 10)
    assert len(collages) == 1
    (collage,) = collages
    names = [ref.name for ref in collage.refs]
    assert names[collage.place] == "dog"
    assert sorted(names) == ["dog", "empty0", "empty1", "empty2"]
    assert collage.question in ("What color is the dog?", "What is the dog doing?")


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
    (collage,) = make_collages(records, 1)
    assert collage.question == question


def test_no_image_is_twice_on_a_collage(tmp_path: Path) -> None:
    """Also where each of an image's captions is a record of its own."""
    lines = []
    for number in range(8):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
        texts = ["A dog runs.", "A dog sleeps.", "An animal."] if number < 4 else ["A road.", "A street.", "A wall."]
        lines += [{"image": f"{number}.png", "captions": [text], "split": "dev"} for text in texts]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collages = collages_of(read_data(tmp_path), "dev", 20)
    assert len(collages) == 4, "one about each image with a dog"
    assert all(len(set(collage.refs)) == 4 for collage in collages)


def test_no_collage_where_captions_do_not_suffice() -> None:
    assert make_collages([], 5) == []
    assert make_collages([captions("a", "A dog."), captions("b", "A road."), captions("c", "A road.")], 5) == []
    assert make_collages([captions(str(i), "A dog.") for i in range(9)], 5) == []


def test_a_collage_shows_its_images_in_their_places() -> None:
    records = [captions("red", "A dog."), *(captions(name, "A road.") for name in ("green", "blue", "grey"))]
    (collage,) = make_collages(records, 1)
    colours = {**COLOURS, "grey": (128, 128, 128)}
    image = collage.compose(lambda ref: Image.new("RGB", (100, 30), colours[ref.name]))
    assert image.size == (2 * TILE, 2 * TILE)
    for place, ref in enumerate(collage.refs):
        middle = (place % 2 * TILE + TILE // 2, place // 2 * TILE + TILE // 2)
        assert image.getpixel(middle) == colours[ref.name]
    assert collage.refs[collage.place].name == "red"
