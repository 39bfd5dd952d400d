"""generation_config.json of a published folder: what is read of it, what is refused, and that it is obeyed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from app.wire import model_card
from crosslook.types import ModelLimits
from model.interface import Item
from model.published.generation.config import BeamOptions, read_beam_options
from model.published.loading import load
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import Pair, make_pair

DEFAULT = BeamOptions(max_new_tokens=10)


def written(folder: Path, content: Any) -> Path:
    """A folder with this generation_config.json."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder


def test_without_the_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_beam_options(tmp_path, DEFAULT, room=100) == DEFAULT
    assert read_beam_options(tmp_path, DEFAULT, room=4).max_new_tokens == 4


def test_what_the_file_says_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What belongs to other ways of writing, or to the files beside it, is no matter for a warning."""
    said = {
        "num_beams": 5,
        "max_new_tokens": 30,
        "length_penalty": -1,
        "repetition_penalty": 1.5,
        "early_stopping": True,
    }
    quiet = {"transformers_version": "4.40", "eos_token_id": 3, "do_sample": False, "top_k": None, "use_cache": True}
    folder = written(tmp_path, said | quiet)
    assert read_beam_options(folder, DEFAULT, room=100) == BeamOptions(5, 30, -1.0, 1.5, True)
    assert read_beam_options(folder, DEFAULT, room=12).max_new_tokens == 12
    assert not caplog.records


@pytest.mark.parametrize(
    ("said", "tokens"),
    [({"max_length": 21}, 20), ({"max_length": 1}, 1), ({"max_length": 21, "max_new_tokens": 7}, 7)],
)
def test_a_length_counts_the_first_token_too(tmp_path: Path, said: dict[str, int], tokens: int) -> None:
    """As in transformers, where ``max_new_tokens`` goes before ``max_length``."""
    assert read_beam_options(written(tmp_path, said), DEFAULT, room=100).max_new_tokens == tokens


def test_what_is_not_followed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_beam_options(written(tmp_path, {"do_sample": True, "temperature": 0.7}), DEFAULT, room=100)
    assert found == DEFAULT
    assert "do_sample, temperature" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        {"num_beams": 0},
        {"num_beams": 65},
        {"num_beams": 2.0},
        {"num_beams": True},
        {"max_new_tokens": "many"},
        {"length_penalty": float("nan")},
        {"length_penalty": 1e9},
        {"repetition_penalty": 0},
        {"early_stopping": "never"},
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, content: Any) -> None:
    """With the file's name: it is the operator who reads it."""
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        read_beam_options(written(tmp_path, content), DEFAULT, room=100)


@pytest.mark.parametrize(
    "said",
    [
        {"num_beams": 1, "max_new_tokens": 6},
        {"num_beams": 5, "max_new_tokens": 4},
        {"num_beams": 3, "max_new_tokens": 10, "length_penalty": 2.0},
        {"num_beams": 4, "max_new_tokens": 8, "length_penalty": -1.0},
        {"num_beams": 3, "max_new_tokens": 8, "early_stopping": True},
        {"num_beams": 3, "max_new_tokens": 8, "repetition_penalty": 1.7},
    ],
)
@pytest.mark.parametrize("task", ["answer", "caption"])
def test_a_folder_writes_as_its_file_says(tmp_path: Path, task: str, said: dict[str, Any]) -> None:
    """Token for token what transformers writes with the same options; and the description of the model shows them."""
    made = make_pair(tmp_path, task, end=2.0, seed=1)
    pair = Pair(load(written(tmp_path, said), id=task), made.theirs, tmp_path)
    images = [make_image(80, 60, seed=s) for s in range(4)]
    text = "what is it?" if task == "answer" else "a photo of"
    ids, mask = pair.ids(text, enc=task == "answer")
    for image, encoded in zip(images, pair.encode(*images), strict=True):
        (output,) = pair.ours.run(task, [Item(encoded, (text,))])
        pixels = pair.pixels(image)
        given = (ids, pixels, mask) if task == "answer" else (pixels, ids, mask)
        expected = pair.theirs.generate(*given, **said)
        assert output.texts[0].ranking[0].answer.lower() == pair.ours.tokenizer.decode(expected[0])
    limits = ModelLimits(**dict.fromkeys(ModelLimits.model_fields, 1))
    shown = model_card(pair.ours.info, limits, 0).generation
    assert shown is not None
    assert shown["num_beams"] == said["num_beams"]
    assert shown["max_new_tokens"] == said["max_new_tokens"]
