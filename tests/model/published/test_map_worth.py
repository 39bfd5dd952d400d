"""What maps are worth can be measured of every published family, as far as it goes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.cross_attention import KeysValues
from model.evaluation.data import DataSet, read_data
from model.evaluation.evaluate import main
from model.evaluation.map_worth import measure_maps
from model.interface import Item
from model.published.blip.base import BlipImage
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import DualPair, Pair

TEXT = "what is the color of the cat?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with questions and captions in the tiny checkpoints' words."""
    root = tmp_path_factory.mktemp("data")
    lines = []
    with tarfile.open(root / "toy.tar", "w") as tar:
        for number in range(14):
            buffer = io.BytesIO()
            make_image(90, 50 + number).save(buffer, "PNG")
            member = tarfile.TarInfo(f"{number}.png")
            member.size = buffer.tell()
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
            thing = ("dog", "man", "bird")[number % 3]
            record: dict[str, Any] = {"image": f"{number}.png", "split": "dev"}
            lines.append(record | {"question": f"what is the color of the {thing}?", "answers": ["red"]})
            lines.append(record | {"captions": [f"red {thing}.", f"a {thing}."]})
    (root / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> DataSet:
    return read_data(folder)


def part_of(image: Any, keep: Any) -> BlipImage:
    """The image with the kept patches' keys and values alone, behind that of the class token."""
    index = torch.tensor([0, *(1 + np.flatnonzero(keep)).tolist()])
    return BlipImage([KeysValues(k[:, :, index], v[:, :, index]) for k, v in image.layers], image.geometry)


def masks() -> Any:
    """All patches, some, others, none, more than go at once."""
    keep = np.random.default_rng(0).random((70, 4, 4)) < 0.5
    keep[0], keep[-1] = True, False
    return keep


def test_a_masked_patch_is_as_good_as_none_for_matching(match: Pair) -> None:
    (image,) = match.encode(make_image(90, 50))
    keep = masks()
    found = match.ours.score_masked(image, TEXT, keep, TEXT)
    assert found.shape == (70,)
    for row in (0, 1, 66, 69):
        (output,) = match.ours.run("match", [Item(part_of(image, keep[row]), (TEXT,))])
        assert found[row] == pytest.approx(output.texts[0].fit, abs=1e-5)
    assert np.ptp(found) > 1e-3


def test_a_masked_patch_is_as_good_as_none_for_answers(answer: Pair) -> None:
    """By the proportions of candidates, which are those of the probabilities of saying just them."""
    (image,) = answer.encode(make_image(90, 50))
    keep, candidates = masks(), ("red", "the dog")
    found = [answer.ours.score_masked(image, TEXT, keep, candidate) for candidate in candidates]
    for row in (0, 1, 66, 69):
        (output,) = answer.ours.run("answer", [Item(part_of(image, keep[row]), (TEXT,), candidates=candidates)])
        shares = {ranked.answer: ranked.score for ranked in output.texts[0].ranking}
        odds = found[0][row] / found[1][row]
        assert odds == pytest.approx(shares["red"] / shares["the dog"], rel=1e-3)
    assert np.ptp(found[0]) > 0


@torch.no_grad()
def test_a_captions_score_is_the_mean_of_its_tokens(caption: Pair) -> None:
    (image,) = caption.encode(make_image(90, 50))
    said = "a photo of two cat"
    (found,) = caption.ours.score_masked(image, "a photo", np.ones((1, 4, 4), dtype=np.bool_), said)
    features = caption.theirs.vision_model(caption.pixels(make_image(90, 50))).last_hidden_state
    config = caption.theirs.config.text_config
    ids = caption.ours.tokenizer(said).ids[1:-1]
    fed = torch.tensor([[config.bos_token_id, *ids]])
    scores = caption.theirs.text_decoder(fed, encoder_hidden_states=features).logits[0].log_softmax(-1)
    targets = [*ids, config.sep_token_id][2:]
    expected = float(np.exp(np.mean([float(scores[2 + i, target]) for i, target in enumerate(targets)])))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["answer", "match", "caption"])
def test_only_its_own_images_can_be_masked(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(TypeError, match="did not encode"):
        request.getfixturevalue(name).ours.score_masked(object(), TEXT, masks(), "red")


@pytest.mark.parametrize("name", ["answer", "match", "caption"])
def test_blip(name: str, data: DataSet, request: pytest.FixtureRequest) -> None:
    pair = request.getfixturevalue(name)
    rows = {row.name: row for row in measure_maps(pair.ours, data, "dev", images=6, collages=6) if row.about == "all"}
    assert {"uniform", "centre", "raw", "gradient", "rollout", "raw, random weights"} <= rows.keys()
    assert ("raw, other question" in rows) is (name != "caption"), "nothing is asked of a caption"
    for row in rows.values():
        assert row.deletion is not None
        assert row.insertion is not None
        assert 0 <= row.deletion.mean <= 1
        assert (row.pointing is None) is (name == "caption")
    if name != "caption":
        assert rows["raw"].pointing_word is not None


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_similarities_can_only_point(name: str, data: DataSet, request: pytest.FixtureRequest) -> None:
    pair: DualPair = request.getfixturevalue(name)
    rows = {row.name: row for row in measure_maps(pair.ours, data, "dev", images=6, collages=6)}
    assert list(rows) == ["uniform", "centre", "similarity", "similarity, other question"]
    for row in rows.values():
        assert row.deletion is None
        assert row.pointing is not None
        assert row.pointing.count == 6


@pytest.mark.parametrize("name", ["answer", "match", "caption"])
def test_the_command(
    name: str, folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a model cannot do is left out, not counted against it."""
    model = request.getfixturevalue(name).folder
    arguments = [
        "--data",
        str(folder),
        "--model",
        str(model),
        "--images",
        "12",
        "--texts",
        "1",
        "--collages",
        "4",
        "--threads",
        "1",
    ]
    assert main([*arguments, "--maps", "--matching", "--kinds", "raw"]) == 0
    printed = capsys.readouterr().out
    assert "commonest answer" not in printed  # the data have no train questions to take it from
    assert ("ECE" in printed) is (name == "answer")
    assert ("Captions found" in printed) is (name == "match")
    assert "| raw | all | 12 |" in printed
