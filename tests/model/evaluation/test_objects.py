"""What is asked of photographs with boxes, and how it is judged."""

import json
from pathlib import Path

import pytest
from PIL import Image

from model.compact.model import tiny
from model.evaluation.data import Box, DataError, ImageRef, Objects, read_data
from model.evaluation.objects import article, measure_objects, object_questions, plural


def test_as_much_is_asked_that_is_not_there_as_is() -> None:
    box = (0.1, 0.1, 0.4, 0.4)
    records = [
        Objects(ImageRef("a", str(i)), tuple(Box(name, box) for name in names), "boxes")
        for i, names in enumerate((["dog", "dog", "cat"], ["bus"], ["car", "bus"], ["person", "dog"]))
    ]
    for record, asked in zip(records, object_questions(records), strict=True):
        there = [q.name for q in asked if q.presence and q.number]
        absent = [q.name for q in asked if q.presence and not q.number]
        assert sorted(there) == sorted({box.name for box in record.objects})
        assert len(absent) == len(set(absent)) == len(there)
        assert not set(absent) & set(there)
    counts = [q for q in object_questions(records)[0] if not q.presence]
    assert {(q.text, q.number) for q in counts} == {("How many dogs are there?", 2), ("How many cats are there?", 1)}


def test_names_in_the_plural() -> None:
    assert [plural(name) for name in ("dog", "person", "bus", "knife", "sheep")] == [
        "dogs",
        "people",
        "buses",
        "knives",
        "sheep",
    ]
    assert [article(name) for name in ("apple", "dog", "skis")] == ["an apple", "a dog", "any skis"]


def boxes(folder: Path, **record: object) -> Path:
    Image.new("RGB", (40, 20), (90, 20, 20)).save(folder / "a.png")
    found = {"image": "a.png", "width": 40, "height": 20, "objects": [{"name": "dog", "box": [10, 5, 20, 10]}]} | record
    other = found | {"objects": [{"name": "cat", "box": [0, 0, 40, 20]}]}
    (folder / "boxes.jsonl").write_text(f"{json.dumps(found)}\n{json.dumps(other)}\n")
    return folder


def test_a_model_is_measured_on_boxes(tmp_path: Path) -> None:
    data = read_data(boxes(tmp_path))
    assert data.objects[0].objects == (Box("dog", (0.25, 0.25, 0.75, 0.75)),)
    found = measure_objects(tiny(), data)
    assert found.images == 2
    assert found.balanced.count == found.there.count + found.absent.count == 4
    assert found.centre_on_box.mean == 1


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"objects": [{"name": "dog"}]}, {"objects": [{"name": "dog", "box": [1]}]}]
)
def test_boxes_that_are_none_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"boxes.jsonl, line 1: `objects`"):
        read_data(boxes(tmp_path, **wrong))
