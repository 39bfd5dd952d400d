"""Llama 3.2 Vision here says what transformers' own says, and its maps are the attention that it used."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.cross_attention import CrossAttention
from model.interface import Generation, Item, ItemError, MapRequest
from model.published.loading import load
from model.published.mllama import tiles
from tests.model.published.checkpoints import make_image
from tests.model.published.mllama.conftest import MllamaPair, save_mllama
from tests.model.published.writers import (
    QUESTIONS,
    SHORT,
    ask,
    assert_batch_is_alone,
    assert_defaults_are_followed,
    assert_kept_is_as_new,
    assert_peaked,
    assert_same,
    assert_spans,
    roll_maps,
)

SHAPES = ((60, 30), (30, 60), (60, 64), (300, 31), (20, 24), (33, 90))
ARRANGED = ((1, 2), (2, 1), (2, 2), (1, 4), (1, 1), (3, 1))  # tiles down and across


def on_grid(row: torch.Tensor, down: int, across: int) -> np.ndarray:
    """A row over the keys of tiles as a map: the tiles' patches where the tiles lie."""
    each = row[: down * across * 5].view(down, across, 5)[..., 1:].view(down, across, 2, 2)
    return each.permute(0, 2, 1, 3).reshape(2 * down, 2 * across).numpy()


def assert_equal(ours: Any, pair: MllamaPair, place: int) -> None:
    """Tokens, logits and raw maps of each layer to 1e-5."""
    image, (down, across) = make_image(*SHAPES[place], seed=place), ARRANGED[place]
    [encoded] = ours.encode([ours.info.preprocess(image)])
    for question in QUESTIONS:
        made = pair.generate(image, question, max_new_tokens=6)
        theirs = pair.look(image, question, made)
        assert theirs.tiles == down * across
        prompt = ours._prompt("answer", question)
        assert prompt.ids == pair.ids(question)
        size = len(prompt.ids)
        forced = ours._forced([prompt], [encoded], torch.tensor([made]), None)
        torch.testing.assert_close(forced.logits[0], theirs.logits[size - 1 :], rtol=0, atol=1e-5)
        for layer, heads in zip((1, 3), theirs.crossed, strict=True):
            [text] = ask(ours, encoded, question, maps=MapRequest("raw", (layer,)), generation=SHORT).texts
            kept = [token for token in made if token not in ours.ends]
            assert text.ranking[0].answer == ours.tokenizer.decode(kept)
            rows = heads.mean(0)
            maps = [token.map for token in (*text.tokens, *text.answer_tokens)]
            written = rows[size - 1 : size - 1 + len(kept)]
            for found, row in zip(maps, (*rows[:size], *written), strict=True):
                expected = on_grid(row, down, across)
                np.testing.assert_allclose(found.values, expected, atol=1e-5)
                assert found.elsewhere == pytest.approx(1.0 - expected.sum(), abs=1e-5)
            answered = on_grid(written.mean(0), down, across)
            np.testing.assert_allclose(text.answer_map.values, answered, atol=1e-5)


def test_attention_is_peaked(mllama: MllamaPair) -> None:
    for heads in mllama.look(make_image(60, 30), QUESTIONS[0], []).crossed:
        assert_peaked(heads[:, mllama.ids(QUESTIONS[0]).index(mllama.ours.image_id) :, :10])


@pytest.mark.parametrize("place", range(len(SHAPES)))
def test_tokens_logits_and_maps_equal_transformers(mllama: MllamaPair, place: int) -> None:
    assert_equal(mllama.ours, mllama, place)


@pytest.mark.parametrize("shape", [*SHAPES, (640, 480), (31, 500), (65, 32)])
def test_pixels_and_tiles_are_those_of_transformers(mllama: MllamaPair, shape: tuple[int, int]) -> None:
    image = make_image(*shape)
    pixels = mllama.ours.info.preprocess(image)
    arranged = mllama.ours._arrangement(pixels)
    theirs = mllama.inputs(image, mllama.ids("a dog"))
    ours = mllama.ours._split(pixels, *arranged)
    torch.testing.assert_close(ours, theirs["pixel_values"][0, 0], rtol=0, atol=1e-5)
    assert mllama.ours._tiles.arrangements().index(arranged) + 1 == int(theirs["aspect_ratio_ids"])
    geometry = pixels.geometry
    for axis, length, covered in (
        (1, geometry.width, geometry.region.right),
        (0, geometry.height, geometry.region.bottom),
    ):
        canvas = pixels.values.shape[axis]
        resized = round(length / covered * canvas)  # the image ends where the padding begins
        assert length / covered * canvas == pytest.approx(resized, abs=1e-6)
        assert resized == canvas or not pixels.values.take(range(resized, canvas), axis).any()
        assert pixels.values.take([resized - 1], axis).any()


@pytest.mark.parametrize(
    "mutant", ["tiles permuted", "columns", "row by one", "gate", "norms", "mask", "no cross-attention"]
)
def test_a_mutant_is_noticed(mllama: MllamaPair, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison would let pass, it would not be worth running."""
    ours = load(mllama.folder, id="mutant")
    ours.net.double()
    blocks = ours.stack.blocks
    if mutant == "tiles permuted":
        cells = tiles._cells
        monkeypatch.setattr(tiles, "_cells", lambda d, a, s: (*cells(d, a, s)[5:], *cells(d, a, s)[:5]))
    elif mutant in ("columns", "row by one"):
        roll_maps(monkeypatch, 2 if mutant == "columns" else 1)
    elif mutant == "gate":
        monkeypatch.setattr(blocks[0], "gate", torch.nn.Parameter(torch.full((1,), 30.0, dtype=torch.float64)))
    elif mutant == "norms":
        blocks[0].attention.k_norm = None
    elif mutant == "no cross-attention":
        attend = CrossAttention.forward
        monkeypatch.setattr(CrossAttention, "forward", lambda s, *a, **k: (0 * (r := attend(s, *a, **k))[0], r[1]))
    else:
        monkeypatch.setattr(ours, "seen", lambda ids: None)
        if not mllama.theirs.chat:
            return  # its prompt begins with the image
    with pytest.raises((AssertionError, ValueError)):
        assert_equal(ours, mllama, 0)


def test_transformers_differs_in_rows_before_the_image_alone(mllama: MllamaPair) -> None:
    """Its rows there attend to every key, those of empty tiles included; with the image first there are none."""
    image, question = make_image(60, 30), QUESTIONS[0]
    right = mllama.look(image, question, [])
    theirs = mllama.look(image, question, [], right=False)
    before = mllama.ids(question).index(mllama.ours.image_id)
    assert (before > 0) == mllama.theirs.chat
    change = (right.logits - theirs.logits).abs().max()
    assert change > 1e-3 if before else change == 0
    if before:
        row = theirs.crossed[0][:, 0].mean(0)
        assert row.sum() == pytest.approx(1.0)
        assert row[right.tiles * 5 :].sum() > 1e-3


@pytest.mark.parametrize("maps", [None, MapRequest("raw", (1,)), MapRequest()])
def test_a_batch_is_as_one_at_a_time(mllama: MllamaPair, maps: MapRequest | None) -> None:
    images = mllama.encode(make_image(60, 30, seed=1), make_image(62, 30, seed=2))
    assert images[0].batch_key == images[1].batch_key
    assert_batch_is_alone(mllama.ours, images, maps)


def test_an_encoded_image_is_as_a_new_one(mllama: MllamaPair) -> None:
    """Encoded among others of other arrangements and asked again and again, or anew for each question."""
    pixels = [mllama.ours.info.preprocess(make_image(*shape, seed=1)) for shape in SHAPES[:3]]
    kept = mllama.ours.encode(pixels)
    assert len({image.batch_key for image in kept}) == 2
    assert_kept_is_as_new(mllama.ours, kept[1], pixels[1])
    held = sum(tensor.untyped_storage().nbytes() for layer in kept[1].layers for tensor in layer)
    assert kept[1].nbytes == held


def test_an_image_that_would_be_too_large_keeps_its_features(mllama: MllamaPair) -> None:
    """Keys and values are projected for each call then, and nothing else changes."""
    ours = load(mllama.folder, id="small", image_bytes=1000)
    ours.net.double()
    pixels = [ours.info.preprocess(make_image(60, 30, seed=seed)) for seed in range(2)]
    small, whole = ours.encode(pixels), mllama.ours.encode(pixels)
    assert small[0].layers == []
    assert small[0].nbytes == 10 * 32 * 8 < whole[0].nbytes
    for one, other in zip(small, whole, strict=True):
        expected = ask(mllama.ours, other, *QUESTIONS, maps=MapRequest(), generation=SHORT)
        found = ask(ours, one, *QUESTIONS, maps=MapRequest(), generation=SHORT)
        for a, b in zip(found.texts, expected.texts, strict=True):
            assert_same(a, b)


def test_what_is_said_of_maps(mllama: MllamaPair) -> None:
    [encoded] = mllama.encode(make_image(60, 30))
    output = ask(mllama.ours, encoded, QUESTIONS[0], maps=MapRequest(), generation=SHORT)
    assert output.maps is not None
    assert (output.maps.layers, output.maps.composition) == ((1, 3), None)
    layers = mllama.theirs.model.language_model.layers
    gates = [layers[i].cross_attn_attn_gate.tanh().item() for i in (1, 3)]
    assert output.maps.gates == pytest.approx(gates)
    assert_spans(QUESTIONS[0], output.texts[0].tokens)
    assert [word.text for word in output.texts[0].words][:3] == ["what", "is", "the"]


def test_what_looks_like_a_special_token_is_text(mllama: MllamaPair) -> None:
    [encoded] = mllama.encode(make_image(60, 30))
    question = "is <|image|> or </s> here?"
    prompt = mllama.ours._prompt("answer", question)
    assert prompt.ids.count(mllama.ours.image_id) == 1
    [text] = ask(mllama.ours, encoded, question, maps=MapRequest(), generation=SHORT).texts
    assert_spans(question, text.tokens)


def test_a_drawn_answer_is_the_seeds(mllama: MllamaPair) -> None:
    [encoded] = mllama.encode(make_image(60, 30))

    def drawn(seed: int, **options: Any) -> str:
        generation = Generation(max_new_tokens=8, temperature=1.5, seed=seed, **options)
        return str(ask(mllama.ours, encoded, "a dog", generation=generation).texts[0].ranking[0].answer)

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(6)}) > 1
    greedy = ask(mllama.ours, encoded, "a dog", generation=Generation(max_new_tokens=8)).texts[0].ranking[0].answer
    assert {drawn(seed, top_p=1e-6) for seed in range(3)} == {greedy}


def test_what_the_folder_says_of_writing_holds(mllama: MllamaPair) -> None:
    image = make_image(60, 30)
    assert_defaults_are_followed(mllama.ours, mllama.encode(image)[0], partial(mllama.generate, image, QUESTIONS[0]))


def test_stop_strings_end_an_answer(mllama: MllamaPair) -> None:
    [encoded] = mllama.encode(make_image(60, 30))
    [whole] = ask(mllama.ours, encoded, "a dog", generation=Generation(max_new_tokens=8)).texts
    answer = whole.ranking[0].answer
    stop = answer[len(answer) // 2]
    [text] = ask(mllama.ours, encoded, "a dog", generation=Generation(max_new_tokens=8, stop=("%%", stop))).texts
    assert text.ranking[0].answer == answer[: answer.find(stop)].rstrip()


def test_captions(mllama: MllamaPair) -> None:
    """A model that chats is told what to do; another goes on with the text."""
    [encoded] = mllama.encode(make_image(60, 30))
    [text] = ask(mllama.ours, encoded, "", task="caption", maps=MapRequest(), generation=SHORT).texts
    assert text.ranking[0].answer
    [text] = ask(mllama.ours, encoded, "a photo", task="caption", maps=MapRequest(), generation=SHORT).texts
    assert text.ranking[0].answer.startswith("a photo") != mllama.theirs.chat


def test_settings_that_make_no_sense_are_said(tmp_path: Path) -> None:
    save_mllama(tmp_path)
    [path] = list(tmp_path.glob("*processor_config.json"))
    settings = json.loads(path.read_text())
    for change in ({"size": {"height": 48, "width": 48}}, {"max_image_tiles": 9}, {"resample": 99}):
        path.write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=r"tiles|resample"):
            load(tmp_path, id="mllama")
    path.write_text(json.dumps(settings))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['nothing']['at all'] }}")
    with pytest.raises(ValueError, match="chat template"):
        load(tmp_path, id="mllama")


def test_a_question_that_is_too_long_is_said(mllama: MllamaPair) -> None:
    [encoded] = mllama.encode(make_image(60, 30))
    [found] = mllama.ours.run("answer", [Item(encoded, ("dog " * 300,))])
    assert isinstance(found, ItemError)
    assert found.code == "question_too_long"
