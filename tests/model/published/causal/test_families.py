"""Every causal family says what transformers' own says of the same folder, and its maps are the attention it used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from model.interface import Item, MapRequest, TextOutput
from model.published import attention
from model.published.causal import maps as causal_maps
from model.published.causal import model as causal_model
from model.published.causal.vision import Placement, tensors_of
from model.published.generation.batch import Batch
from tests.model.published.causal.pairs import QUESTION, SHAPES, CausalPair, Theirs
from tests.model.published.checkpoints import make_image

OTHER = "where is the dog and how many are there?"


class Recorded:
    """A stack that remembers its logits, and the rows that it fed."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack
        self.logits: list[torch.Tensor] = []
        self.rows: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def __call__(self, feed: Any) -> torch.Tensor:
        found: torch.Tensor = self._stack(feed)
        self.logits.append(found)
        self.rows = list(feed.rows)
        return found


def image_columns(pair: CausalPair, theirs: Theirs) -> list[int]:
    """Which tokens of the prompt are the image's."""
    return [i for i, token in enumerate(theirs.ids) if token == pair.ours.prompt.image_id]


def check_maps(pair: CausalPair, image: Image.Image, found: TextOutput, theirs: Theirs) -> None:
    """The maps of all question and answer tokens are transformers' own eager attention."""
    columns = image_columns(pair, theirs)
    tail = len(found.tokens)
    for index, token in enumerate(found.tokens):
        row = theirs.attention[len(theirs.ids) - tail + index, columns]
        assert token.map is not None
        np.testing.assert_allclose(token.map.values, pair.place(row, image), atol=1e-5)
        assert token.map.values.sum() + token.map.elsewhere == pytest.approx(1.0, abs=1e-5)
    assert len(found.answer_tokens) == found.answer_token_count > 0
    for index, token in enumerate(found.answer_tokens):
        row = theirs.attention[len(theirs.ids) - 1 + index, columns]
        assert token.map is not None
        np.testing.assert_allclose(token.map.values, pair.place(row, image), atol=1e-5)
    mean = np.mean([token.map.values for token in found.answer_tokens if token.map is not None], 0)
    assert found.answer_map is not None
    np.testing.assert_allclose(found.answer_map.values, mean, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_logits_and_maps_are_transformers_own(
    pair: CausalPair, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(*shape)
    theirs = pair.reference(image, QUESTION)
    assert theirs.entropy < 0.5
    check_all(pair, image, theirs, monkeypatch)


@pytest.mark.parametrize("shape", [(333, 20), (20, 333)])
def test_an_image_that_leaves_no_patch_of_its_tiles_is_its_thumbnail(
    pairs: Callable[[str], CausalPair], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA-OneVision: of the tiles there is nothing, or the ends of their rows alone."""
    pair, image = pairs("llava_onevision"), make_image(*shape)
    theirs = pair.reference(image, QUESTION)
    assert len(image_columns(pair, theirs)) == 16 + (shape[0] < shape[1]) * 12
    check_all(pair, image, theirs, monkeypatch)


def check_all(pair: CausalPair, image: Image.Image, theirs: Theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, logits and maps are transformers' own."""
    recorded = Recorded(pair.ours.stack)
    monkeypatch.setattr(pair.ours, "batch", lambda: Batch(recorded))
    (encoded,) = pair.encode(image)
    found = pair.ask(encoded, QUESTION)
    assert isinstance(found, TextOutput)
    assert encoded.ids + pair.ours.tokenize(QUESTION).ids == theirs.ids
    assert recorded.rows[0].detokenizer.ids == theirs.answer
    assert found.answer_token_count == len(theirs.answer)
    logits = torch.cat(recorded.logits)[-len(theirs.logits) :]
    scale = max(1.0, float(theirs.logits.abs().max()))  # what float32's rounding grows with
    torch.testing.assert_close(logits, theirs.logits[-len(logits) :], atol=1e-5 * scale, rtol=1e-5)
    expected = theirs.logits.log_softmax(-1).gather(-1, torch.tensor(theirs.answer)[:, None])[:, 0]
    np.testing.assert_allclose([c.log_probability for c in found.choices], expected, atol=1e-5)
    check_maps(pair, image, found, theirs)


@torch.no_grad()
def test_each_token_is_placed_on_the_cell_that_it_saw(pair: CausalPair) -> None:
    """Where a cell's part of the image is turned to its negative, the feature that changes most is placed there."""
    image = make_image(*SHAPES[0])
    images, preprocess = pair.ours.images, pair.ours.info.preprocess
    before = preprocess(image)
    placement, grid = images.expand(before).placement, before.geometry
    features = torch.cat([x.reshape(-1, x.shape[-1]) for x in tensors_of(images.features(before))])
    tokens = placement.tokens.max() + 1
    for row, column in ((0, 0), (0, grid.columns - 1), (grid.rows - 1, 0), (grid.rows // 2, grid.columns // 2)):
        region = grid.region
        width, height = (region.right - region.left) / grid.columns, (region.bottom - region.top) / grid.rows
        left, top = region.left + column * width, region.top + row * height
        box = tuple(round(x) for x in (left, top, left + width, top + height))
        changed = image.copy()
        changed.paste(ImageOps.invert(image.crop(box)), box[:2])
        after = torch.cat([x.reshape(-1, x.shape[-1]) for x in tensors_of(images.features(preprocess(changed)))])
        most = int((after - features)[: max(tokens, 1)].norm(dim=-1).argmax())
        cells = placement.cells[placement.tokens == most]
        assert row * grid.columns + column in cells, (row, column, most, cells)


def test_maps_of_some_heads_and_layers_are_theirs(pair: CausalPair) -> None:
    image = make_image(*SHAPES[0])
    (encoded,) = pair.encode(image)
    found = pair.ask(encoded, QUESTION)
    assert isinstance(found, TextOutput)
    inputs = pair.prompt(image, QUESTION)
    ids = inputs["input_ids"][0].tolist()
    with torch.no_grad():
        attentions = pair.theirs(**inputs, output_attentions=True).attentions
    columns = [i for i, token in enumerate(ids) if token == pair.ours.prompt.image_id]
    for layers, heads in (((1,), (4,)), ((0, 2), (0, 3, 5))):
        maps = MapRequest("raw", layers, heads)
        item = Item(encoded, (QUESTION,), maps=maps, generation=pair_generation(1))
        (output,) = pair.ours.run("answer", [item])
        assert (output.maps.layers, output.maps.heads) == (layers, heads)
        wanted = torch.stack([attentions[layer][0, list(heads)].mean(0) for layer in layers]).mean(0)[:, columns]
        tokens = output.texts[0].tokens
        for token, row in zip(tokens, wanted[-len(tokens) :].numpy(), strict=True):
            np.testing.assert_allclose(token.map.values, pair.place(row, image), atol=1e-5)


def test_a_batch_says_what_each_says_alone(pair: CausalPair) -> None:
    """Two images of different shapes, questions of different lengths, answers of different lengths."""
    images = pair.encode(make_image(*SHAPES[0]), make_image(*SHAPES[1], seed=1))
    alone = [pair.ask(image, text) for image in images for text in (QUESTION, OTHER, "is it?")]
    generation = pair_generation(6)
    items = [Item(image, (QUESTION, OTHER, "is it?"), maps=MapRequest(), generation=generation) for image in images]
    together = [text for output in pair.ours.run("answer", items) for text in output.texts]
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def pair_generation(tokens: int) -> Any:
    """Options of that many tokens."""
    from model.interface import Generation

    return Generation(max_new_tokens=tokens)


def assert_same(one: Any, other: Any, atol: float = 1e-6) -> None:
    """Two outputs of one text: the same words, the same figures."""
    assert one.ranking[0].answer == other.ranking[0].answer
    for a, b in zip(one.choices, other.choices, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=20 * atol)
    for a, b in zip((*one.tokens, *one.answer_tokens), (*other.tokens, *other.answer_tokens), strict=True):
        np.testing.assert_allclose(a.map.values, b.map.values, atol=atol)
        assert a.map.elsewhere == pytest.approx(b.map.elsewhere, abs=2 * atol)


def test_a_prefix_that_is_reused_says_what_a_new_one_says(pair: CausalPair) -> None:
    image = make_image(*SHAPES[0])
    (kept,) = pair.encode(image)
    pair.ask(kept, OTHER)
    second = pair.ask(kept, QUESTION)
    (fresh,) = pair.encode(image)
    assert_same(second, pair.ask(fresh, QUESTION))


def test_features_in_place_of_keys_and_values_say_the_same(pair: CausalPair, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(*SHAPES[0])
    (kept,) = pair.encode(image)
    monkeypatch.setattr(pair.ours, "image_bytes", 1)
    (light,) = pair.encode(image)
    features = sum(x.nbytes for x in tensors_of(pair.ours.images.features(pair.ours.info.preprocess(image))))
    fewer = features < pair.ours.prefix_bytes(len(kept.ids)) or pair.ours.images.prefix_sees_question
    assert (light.prefix is None) == fewer  # Qwen3-VL's of several depths are more, at this size
    assert light.nbytes == (features if fewer else kept.nbytes)
    assert_same(pair.ask(light, QUESTION), pair.ask(kept, QUESTION))
    if kept.prefix is not None:
        assert kept.nbytes == pair.ours.prefix_bytes(len(kept.ids))  # known before


def test_rows_of_the_steps_are_those_of_the_pass_for_maps(pair: CausalPair) -> None:
    """Attention kept while the answer is written, token by token, is that of the one pass over all of it."""
    (image,) = pair.encode(make_image(*SHAPES[0]))
    found = pair.ask(image, QUESTION)
    ours, tokens = pair.ours, pair.ours.tokenize(QUESTION)
    asked = ours.begin(Item(image, (QUESTION,), generation=pair_generation(6)), QUESTION, tokens, None)
    rows: list[torch.Tensor] = []
    layers = ours.info.layers

    class Keeping(Recorded):
        def __call__(self, feed: Any) -> torch.Tensor:
            with torch.no_grad():
                states, running = self._stack.states(feed, keep=layers)
                prefix = feed.rows[0].source
                rows.append(causal_maps.mean_map(running, MapRequest("raw", layers), prefix, slice(0, 1))[0])
                logits: torch.Tensor = self._stack.head(states[:, -1])
                return logits

    batch = Batch(Keeping(ours.stack))
    batch.join([asked.row])
    batch.finish()
    steps = torch.cat(rows).numpy()
    maps = causal_maps.on_grid(steps, image)
    of_pass = [*found.tokens, *found.answer_tokens[1:]][-len(maps) :]
    for step, token in zip(maps, of_pass, strict=True):
        np.testing.assert_allclose(step.values, token.map.values, atol=1e-6)


class TestMutants:
    """What would be wrong shows."""

    @pytest.fixture
    def case(self, pair: CausalPair) -> tuple[CausalPair, Image.Image, Theirs]:
        image = make_image(*SHAPES[0])
        return pair, image, pair.reference(image, QUESTION)

    def fails(self, case: tuple[CausalPair, Image.Image, Theirs]) -> None:
        pair, image, theirs = case
        (encoded,) = pair.encode(image)
        found = pair.ask(encoded, QUESTION)
        assert isinstance(found, TextOutput)
        with pytest.raises(AssertionError):
            check_maps(pair, image, found, theirs)

    def test_columns_off_by_one(self, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = attention.AttentionPass.maps

        def wrong(self: Any, layer: int, keys: Any, columns: Any, *rest: Any) -> Any:
            by = 1 if isinstance(columns, slice) and columns.start == 0 else -1
            shifted = slice(columns.start + by, columns.stop + by) if isinstance(columns, slice) else columns + by
            return right(self, layer, keys, shifted, *rest)

        monkeypatch.setattr(attention.AttentionPass, "maps", wrong)
        self.fails(case)

    def test_rows_off_by_one(self, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = causal_maps.looked_at
        monkeypatch.setattr(
            causal_model,
            "looked_at",
            lambda stack, asked: {key: np.roll(rows, 1, 0) for key, rows in right(stack, asked).items()},
        )
        self.fails(case)

    def test_tokens_of_the_image_permuted(self, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = Placement.on_grid

        def wrong(self: Placement, rows: Any, cells: int) -> Any:
            half = len(self.cells) // 2
            return right(replace(self, cells=np.roll(self.cells, half)), rows, cells)

        monkeypatch.setattr(Placement, "on_grid", wrong)
        self.fails(case)

    def test_mask_dropped(self, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The question's tokens see those that come after them."""
        monkeypatch.setattr(attention.AttentionPass, "_own_mask", lambda *_: None)
        monkeypatch.setattr(attention, "_bias", lambda mask, q, k: q.new_zeros(1, 1, q.shape[2], k.shape[2]))
        self.fails(case)

    def test_prefix_not_attended(self, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing(x: torch.Tensor, rows: int, n: int) -> torch.Tensor:
            return x.new_full((rows, x.shape[1], n, x.shape[3]), -1e9)

        monkeypatch.setattr(attention, "_narrow", nothing)
        self.fails(case)
