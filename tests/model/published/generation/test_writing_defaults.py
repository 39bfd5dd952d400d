"""generation_config.json of models that write token by token: followed as transformers' `generate` follows it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model.interface import Generation, Item
from model.published.generation.config import WritingDefaults, ends_of, read_writing_defaults
from model.published.loading import load
from tests.model.published.causal import checkpoints as causal
from tests.model.published.causal.pairs import QUESTION, CausalPair
from tests.model.published.checkpoints import make_image


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> CausalPair:
    """A tiny LLaVA."""
    return causal.llava(tmp_path_factory.mktemp("defaults") / "llava")


def told(pair: CausalPair, folder: Path, **said: Any) -> CausalPair:
    """The pair with this in its generation_config.json."""
    shutil.copytree(pair.folder, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    theirs = type(pair.theirs).from_pretrained(folder, attn_implementation="eager")
    return CausalPair(load(folder, id="told"), theirs, pair.processor, folder, pair.place)


def written(pair: CausalPair, tokens: int | None) -> list[float]:
    """The log-probabilities of what ours writes about an image."""
    image = pair.ours.encode([pair.ours.info.preprocess(make_image(64, 64))])[0]
    item = Item(image, (QUESTION,), generation=Generation(max_new_tokens=tokens))
    return [one.log_probability for one in pair.ours.run("answer", [item])[0].texts[0].choices]


@pytest.mark.parametrize(
    "said",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"suppress": 0},
        {"begin_suppress": 0},
        {"bad_words": 0},
        {"ends": 2},
        {"ends": 2, "min_new_tokens": 6},
        {"max_new_tokens": 3},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress": 1, "do_sample": True, "top_k": 50},
    ],
)
def test_it_is_followed_as_generate_does(llava: CausalPair, tmp_path: Path, said: dict[str, Any]) -> None:
    """The numbers of ``suppress`` and its like are places in what is written without."""
    plain = llava.reference(make_image(64, 64), QUESTION, tokens=8).answer
    said = dict(said)
    for name, field in (("suppress", "suppress_tokens"), ("begin_suppress", "begin_suppress_tokens")):
        if name in said:
            said[field] = [plain[said.pop(name)]]
    if "bad_words" in said:
        place = said.pop("bad_words")
        said["bad_words_ids"] = [plain[place : place + 2], [plain[place + 3]]]
    if "ends" in said:
        said["eos_token_id"] = [2, plain[said.pop("ends")]]
    pair = told(llava, tmp_path / "told", **said)
    tokens = None if "max_new_tokens" in said else 8
    theirs = pair.reference(make_image(64, 64), QUESTION, tokens=said.get("max_new_tokens", 8))
    assert theirs.answer != plain
    ends = ends_of(pair.theirs.generation_config)
    kept = [token for token in theirs.answer if token not in ends]
    chosen = theirs.logits.log_softmax(-1)[torch.arange(len(kept)), torch.tensor(kept)]
    assert written(pair, tokens) == pytest.approx(chosen.tolist(), abs=1e-4)


def test_a_request_with_a_temperature_is_drawn_from_the_folders_own_likeliest(
    llava: CausalPair, tmp_path: Path
) -> None:
    pair = told(llava, tmp_path / "told", do_sample=True, temperature=0.7, top_k=1)
    image = pair.ours.encode([pair.ours.info.preprocess(make_image(64, 64))])[0]
    hot = Generation(max_new_tokens=6, temperature=2.0, seed=3)
    plain = Generation(max_new_tokens=6)
    found = [pair.ours.run("answer", [Item(image, (QUESTION,), generation=one)])[0].texts[0] for one in (hot, plain)]
    assert found[0].ranking == found[1].ranking
    assert pair.ours.info.generation_defaults["top_k"] == 1
    free = llava.ours.run("answer", [Item(image, (QUESTION,), generation=hot)])[0].texts[0]
    assert free.ranking != found[1].ranking


@pytest.mark.parametrize(
    "said",
    [
        {"repetition_penalty": 0.0},
        {"repetition_penalty": "high"},
        {"top_p": 2.0},
        {"no_repeat_ngram_size": -1},
        {"suppress_tokens": [-4]},
        {"suppress_tokens": 7},
        {"bad_words_ids": [[]]},
        {"max_new_tokens": 0},
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    config = transformers.GenerationConfig()
    for name, value in said.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=next(iter(said))):
        read_writing_defaults(config, max_new_tokens=10, room=100, where="here")


def test_what_is_not_followed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    config = transformers.GenerationConfig(typical_p=0.3, guidance_scale=2.0, num_beams=4, do_sample=True, min_p=0.0)
    with caplog.at_level(logging.WARNING):
        found = read_writing_defaults(config, max_new_tokens=10, room=100, where="here")
    assert found == WritingDefaults(10)
    assert "guidance_scale, typical_p" in caplog.text
    assert read_writing_defaults(config, max_new_tokens=10, room=4, where="here").max_new_tokens == 4


def test_the_first_that_names_an_end_counts() -> None:
    named, silent = transformers.GenerationConfig(eos_token_id=[7, 2]), transformers.GenerationConfig()
    assert ends_of(silent, named, transformers.GenerationConfig(eos_token_id=1)) == (7, 2)
    assert ends_of(transformers.GenerationConfig(eos_token_id=1)) == (1,)
    with pytest.raises(ValueError, match="eos_token_id"):
        ends_of(silent)
