"""The evaluation judges a model of known behaviour as it deserves."""

import json
from pathlib import Path

import pytest
from PIL import Image

from model.evaluation.ask import REFUSED, NotBlind, answer_texts, ask_blind, encode_images
from model.evaluation.caption_matching import match_captions
from model.evaluation.data import DataError, DataSet, ImageRef, Question, read_data
from model.evaluation.evaluate import commonest_answers, evaluate, exchange_images
from model.evaluation.report import as_markdown, write_report
from tests.fakes.colour_model import ColourModel, square, write_toy_data


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder)
    return read_data(folder)


def question(source: str, answer: str, kind: str = "other") -> Question:
    return Question(ImageRef("a", "b"), "?", (answer,), source, "train", kind)  # type: ignore[arg-type]


def test_the_table_of_a_model_that_looks(toy: DataSet) -> None:
    model = ColourModel()
    evaluation, records = evaluate(model, toy, "dev", twin=ColourModel(blind=True), shuffle=True)
    rows = {(row.source, row.kind): row for row in evaluation.rows}
    assert next(iter(rows)) == ("vqa-v1 + vqa-v2", "all")
    assert set(rows) == {
        ("vqa-v1 + vqa-v2", "all"),
        ("vqa-v1 + vqa-v2", "yes/no"),
        ("vqa-v1 + vqa-v2", "other"),
        ("vqa-v1 + vqa-v2", "colour"),
        ("vqa-v1", "all"),
        ("vqa-v1", "yes/no"),
        ("vqa-v1", "other"),
        ("vqa-v1", "colour"),
        ("vqa-v2", "all"),
    }
    assert (evaluation.images, evaluation.questions, evaluation.refused) == (30, 90, 0)
    other = rows["vqa-v1 + vqa-v2", "other"]
    assert other.accuracy["model"].mean == 1.0
    assert other.accuracy["model"].count == 60
    assert other.accuracy["twin"].mean == pytest.approx(1 / 3)
    assert other.accuracy["commonest"].mean == pytest.approx(1 / 3)
    assert other.accuracy["shuffled"].mean < 0.6
    assert other.minus_twin is not None
    assert other.minus_twin.mean == pytest.approx(2 / 3)
    assert 0.4 < other.minus_twin.low < other.minus_twin.high < 0.9
    assert other.minus_shuffled is not None
    assert other.minus_shuffled.low > 0.2
    yes_no = rows["vqa-v1 + vqa-v2", "yes/no"]
    assert yes_no.accuracy["model"].mean == 0.0
    assert yes_no.accuracy["commonest"].mean == 1.0
    assert yes_no.calibration_error > 0.3, "sure of a colour, and wrong"
    assert other.calibration_error < 0.05
    assert model.encoded == 30, "each image is encoded once, shuffled or not"
    assert len(records) == 90
    assert records[0]["answers"] == [records[0]["model"]]


def test_without_twin_and_shuffle_there_are_no_such_columns(toy: DataSet) -> None:
    evaluation, _ = evaluate(ColourModel(), toy, "dev", images=7)
    assert evaluation.images == 7
    assert evaluation.questions == 21
    assert set(evaluation.rows[0].accuracy) == {"model", "commonest"}
    assert evaluation.rows[0].minus_twin is None
    text = as_markdown(evaluation)
    assert "twin" not in text.splitlines()[2]


def test_a_seeing_twin_is_refused() -> None:
    with pytest.raises(NotBlind, match="not blind"):
        ask_blind(ColourModel(), ["What color is the thing?"], square("blue", 3))


def test_an_unknown_split_is_named(toy: DataSet) -> None:
    with pytest.raises(DataError, match=r"'test'; there are \['dev', 'train'\]"):
        evaluate(ColourModel(), toy, "test")


def test_one_refused_question_leaves_the_others_their_answers() -> None:
    model = ColourModel()
    (image,) = encode_images(model, [square("green", 1)])
    texts = ["What color is the thing?", "??", "And what color is the ball?"]
    (answers,) = answer_texts(model, [(image, texts)])
    assert [answered.answer for answered in answers] == ["green", "", "green"]
    assert answers[1] is REFUSED


def test_a_refusal_is_wrong_but_says_nothing_of_the_calibration(tmp_path: Path) -> None:
    square("green", 1).save(tmp_path / "0.png")
    asked = {"What color is the thing?": "green", "Which color is the thing?": "blue", "??": "green", "???": "green"}
    lines = [{"image": "0.png", "question": q, "answers": [a], "split": "dev", "source": "x"} for q, a in asked.items()]
    lines.append({"image": "0.png", "question": "??", "answers": ["green"], "split": "dev", "source": "y"})
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation, records = evaluate(ColourModel(), read_data(tmp_path), "dev")
    x, y = evaluation.rows
    assert evaluation.refused == 3
    assert x.accuracy["model"].mean == 0.25
    assert x.calibration_error is not None
    scores = [record["score"] for record in records[:2]]
    assert x.calibration_error == pytest.approx((1 - scores[0] + scores[1]) / 2, abs=1e-3)
    assert y.calibration_error is None, "nothing was answered"
    assert as_markdown(evaluation).splitlines()[-1].endswith("| y | all | 1 | 0.0 |  |  |  |")


def test_a_refusal_and_a_missing_commonest_answer_are_never_right(tmp_path: Path) -> None:
    """Normalisation leaves nothing of "A", and a refusal is the empty answer."""
    for number in range(2):
        square("green", number).save(tmp_path / f"{number}.png")
    lines = [{"image": f"{number}.png", "question": "??", "answers": ["A"], "split": "dev"} for number in range(2)]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation, records = evaluate(ColourModel(), read_data(tmp_path), "dev")
    assert evaluation.refused == 2
    assert [record["accuracy"] for record in records] == [0.0, 0.0]
    assert set(evaluation.rows[0].accuracy) == {"model"}, "nothing is commonest where nothing was trained on"
    assert "commonest" not in as_markdown(evaluation)
    square("green", 2).save(tmp_path / "2.png")
    lines.append({"image": "2.png", "question": "Is it?", "answers": ["yes"], "split": "train"})
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation, _ = evaluate(ColourModel(), read_data(tmp_path), "dev")
    assert {name: found.mean for name, found in evaluation.rows[0].accuracy.items()} == {"model": 0.0, "commonest": 0.0}


def test_answers_are_the_same_asked_together_or_alone() -> None:
    model = ColourModel()
    images = encode_images(model, [square(colour, 5) for colour in ("red", "blue")])
    together = answer_texts(model, [(images[0], ["thing", "dog"]), (images[1], ["thing"])])
    alone = [answer_texts(model, [(images[0], [text])])[0][0] for text in ("thing", "dog")]
    assert together[0] == alone
    assert together[1][0].answer == "blue"


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_image_is_exchanged_for_another(count: int) -> None:
    refs = [ImageRef("a", str(number)) for number in range(count)]
    donors = exchange_images(refs, seed=0)
    assert sorted(donors.values()) == sorted(refs)
    assert all(ref != donor for ref, donor in donors.items())
    assert donors == exchange_images(refs, seed=0)


def test_commonest_answer_of_source_and_kind() -> None:
    train = [question("a", "red"), question("a", "Red."), question("a", "blue"), question("b", "blue")]
    train += [question("b", "blue"), question("a", "yes", "yes/no")]
    commonest = commonest_answers(train)
    assert commonest(question("a", "?")) == "red"
    assert commonest(question("b", "?")) == "blue"
    assert commonest(question("c", "?")) == "blue", "a source without train questions takes the kind's commonest"
    assert commonest(question("b", "?", "yes/no")) == "yes"
    assert commonest(question("b", "?", "number")) == ""


def test_the_report_is_written_twice_with_the_same_figures(toy: DataSet, tmp_path: Path) -> None:
    evaluation, _ = evaluate(ColourModel(), toy, "dev", twin=ColourModel(blind=True), shuffle=True)
    evaluation.matching = match_captions(ColourModel(), toy, "dev")
    write_report(evaluation, tmp_path / "deep" / "report.md")
    text = (tmp_path / "deep" / "report.md").read_text()
    figures = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert text == as_markdown(evaluation)
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert header.count("|") == lines[0].count("|")
    assert len(lines) == len(figures["rows"]) == len(evaluation.rows)
    assert figures["rows"][2]["accuracy"]["model"]["mean"] == 1.0
    assert "| vqa-v1 + vqa-v2 | other | 60 | 100.0 [100.0, 100.0] | 33.3 [" in text
    assert figures["matching"]["accuracy"]["count"] == 60
    assert "of 60 captions of 30 images (toy)." in text


def test_one_image_has_no_interval_and_the_json_null_for_it(toy: DataSet, tmp_path: Path) -> None:
    evaluation, _ = evaluate(ColourModel(), toy, "dev", images=1)
    write_report(evaluation, tmp_path / "report.md")
    assert "[" not in (tmp_path / "report.md").read_text()
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)["rows"][0]["accuracy"]["model"]
    assert found == {"mean": pytest.approx(2 / 3), "low": None, "high": None, "count": 3}


def test_toy_images_are_what_they_say() -> None:
    image = square("red", 9)
    assert isinstance(image, Image.Image)
    assert sorted(image.getcolors() or []) == [(64, (255, 0, 0)), (64 * 63, (128, 128, 128))]
