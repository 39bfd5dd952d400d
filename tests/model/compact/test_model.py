"""The default model on its tiny twin: items, batches, candidates, matching, refusals, and its folder."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.compact import answers
from model.compact.model import CompactImage, CompactModel, tiny
from model.compact.network import CompactConfig, CompactNet
from model.interface import Item, ItemError, MapRequest, Output
from model.progress import listening
from tests.model.tools import QUESTIONS, ask, encode, near, noise, run, scores


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return tiny()


# -- images -----------------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_alone_and_in_a_batch(model: CompactModel) -> None:
    images = [noise(seed, 90 + 10 * seed, 50) for seed in range(3)]
    for image, together in zip(images, encode(model, *images), strict=True):
        (alone,) = encode(model, image)
        assert together.geometry == alone.geometry
        near(ask(model, together, *QUESTIONS)[0], ask(model, alone, *QUESTIONS)[0])


def test_the_detector_is_told_the_proportions_of_the_image(model: CompactModel) -> None:
    pixels = model.info.preprocess(noise(0, 64, 32))
    square = replace(pixels, geometry=replace(pixels.geometry, height=64))
    wide, same = (image.state for image in model.encode([pixels, square]))  # type: ignore[attr-defined]
    assert torch.equal(wide.places, same.places), "the other network takes the pixels as they are"
    assert not torch.equal(wide.layers[0].keys, same.layers[0].keys)


def test_nbytes_is_what_an_image_keeps_in_memory(model: CompactModel) -> None:
    """No view of the batch's tensors, which would keep all of it alive."""
    found = encode(model, *(noise(seed) for seed in range(3)))
    storages: set[int] = set()
    for image in found:
        assert isinstance(image, CompactImage)
        tensors = image.state.tensors()
        own = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        assert sum(own.values()) == image.nbytes
        assert not storages & own.keys()
        storages |= own.keys()
        assert not any(tensor.requires_grad for tensor in tensors)
    assert len({image.batch_key for image in found}) == 1


def test_an_image_is_encoded_once_for_any_number_of_questions() -> None:
    model = tiny()
    images = encode(model, noise(0), noise(1))
    assert model.encode_calls == 1
    for image in images:
        ask(model, image, *QUESTIONS, maps=MapRequest("gradient"))
    assert model.encode_calls == 1


def test_the_image_matters(model: CompactModel) -> None:
    one, other = encode(model, noise(0), noise(1))
    difference = np.subtract(*(list(scores(ask(model, i, "what is this", top_k=8)[0]).values()) for i in (one, other)))
    assert np.abs(difference).max() > 1e-4


# -- answers ----------------------------------------------------------------------------------------------------------


def test_scores_are_over_the_vocabulary_and_rest_is_what_is_left(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    (short,) = ask(model, image, QUESTIONS[0], top_k=3)
    (full,) = ask(model, image, QUESTIONS[0], top_k=50)
    assert full.score_over == "vocabulary"
    assert sorted(scores(full)) == sorted(model.answers)
    assert sum(scores(full).values()) == pytest.approx(1)
    assert full.rest == pytest.approx(0, abs=1e-6)
    assert short.ranking == full.ranking[:3]
    assert short.rest == pytest.approx(1 - sum(scores(short).values()))
    assert all(ranked.in_vocabulary is None for ranked in full.ranking), "nothing to say without candidates"
    assert [r.score for r in full.ranking] == sorted(scores(full).values(), reverse=True)
    assert short.token_count == len(["CLS", "What", "is", "this", "?", "SEP"])
    assert short.answer_token_count == 1
    assert not short.tokens
    assert not short.words


@pytest.mark.parametrize("maps", [None, MapRequest("gradient")])
def test_many_candidates_are_embedded_once_in_parts(model: CompactModel, maps: MapRequest | None) -> None:
    """Scores are as in one pass; every part is a sign of life, and a place to stop."""
    (image,) = encode(model, noise())
    candidates = tuple(f"{'the ' * (i % 7)}thing {i}" for i in range(70))
    heard: list[int] = []
    with listening(lambda: heard.append(1)):
        parts = ask(model, image, *QUESTIONS, top_k=70, candidates=candidates, maps=maps)
    assert 3 <= len(heard) <= 4, "three parts for all questions, and one batch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "_EMBEDDED_AT_ONCE", 1000)
        whole = ask(model, image, *QUESTIONS, top_k=70, candidates=candidates, maps=maps)
    for part, one in zip(parts, whole, strict=True):
        assert scores(part) == pytest.approx(scores(one), abs=1e-6)


@pytest.mark.parametrize("kind", ["raw", "gradient", "rollout"])
def test_maps_change_no_answer(model: CompactModel, kind: str) -> None:
    (image,) = encode(model, noise())
    without = ask(model, image, *QUESTIONS, top_k=8)
    with_maps = ask(model, image, *QUESTIONS, top_k=8, maps=MapRequest(kind))  # type: ignore[arg-type]
    for one, other in zip(without, with_maps, strict=True):
        assert scores(one) == pytest.approx(scores(other), abs=1e-5)
        assert one.ranking[0].answer == other.ranking[0].answer
        assert one.token_count == other.token_count == len(other.tokens)


def test_a_mixed_batch_is_its_items_one_by_one(model: CompactModel) -> None:
    """Images, lengths, candidates, kinds and layers mixed in one call; the results in order."""
    one, two = encode(model, noise(0), noise(1))
    items = [
        Item(one, QUESTIONS, maps=MapRequest()),
        Item(two, QUESTIONS[:1], top_k=2),
        Item(one, ("a",), maps=MapRequest("gradient")),
        Item(two, QUESTIONS[::-1], maps=MapRequest("rollout", (1,))),
        Item(one, QUESTIONS[1:], candidates=("cat", "a man", "dog"), maps=MapRequest("gradient")),
        Item(two, ("is the dog on a cat",), candidates=("red", "blue"), maps=MapRequest("raw", (0,))),
        Item(one, QUESTIONS),
    ]
    for item, together in zip(items, run(model, *items), strict=True):
        (alone,) = run(model, item)
        assert together.maps == alone.maps
        assert len(together.texts) == len(item.texts)
        for found, expected in zip(together.texts, alone.texts, strict=True):
            near(found, expected)


def test_no_items_give_no_results(model: CompactModel) -> None:
    assert model.run("answer", []) == []


# -- candidates -------------------------------------------------------------------------------------------------------


def test_known_candidates_keep_their_proportions(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    every = scores(ask(model, image, QUESTIONS[0], top_k=8)[0])
    (found,) = ask(model, image, QUESTIONS[0], candidates=("dog", " CAT ", "red"))
    assert found.score_over == "candidates"
    assert sum(scores(found).values()) == pytest.approx(1)
    assert found.rest == pytest.approx(0, abs=1e-6)
    assert all(ranked.in_vocabulary for ranked in found.ranking)
    total = every["cat"] + every["dog"] + every["red"]
    assert scores(found)[" CAT "] == pytest.approx(every["cat"] / total, rel=1e-4)  # as it was sent
    assert scores(found)["dog"] == pytest.approx(every["dog"] / total, rel=1e-4)


def test_other_candidates_get_a_vector_from_their_text(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    (found,) = ask(model, image, QUESTIONS[0], candidates=("cat", "a man", "the people on it", "a man " * 80))
    assert sum(scores(found).values()) == pytest.approx(1)
    assert min(scores(found).values()) > 0
    (other,) = ask(model, image, QUESTIONS[0], candidates=("cat", "people", "the people on it", "a man " * 80))
    marks = {ranked.answer: ranked.in_vocabulary for ranked in found.ranking}
    assert marks == {"cat": True, "a man": False, "the people on it": False, "a man " * 80: False}
    # Each logit is the candidate's own: changing one leaves the proportions of the others.
    ratio = [scores(o)["cat"] / scores(o)["the people on it"] for o in (found, other)]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-4)
    assert scores(found)["a man"] / scores(found)["cat"] != pytest.approx(
        scores(other)["people"] / scores(other)["cat"]
    )


def test_a_single_candidate_is_certain_and_has_maps(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    (found,) = ask(model, image, QUESTIONS[0], candidates=("cat",), maps=MapRequest("gradient"))
    assert found.ranking[0].score == pytest.approx(1)
    assert found.answer_map is not None
    assert np.isfinite(found.answer_map.values).all()


# -- matching ---------------------------------------------------------------------------------------------------------


def test_matching_compares_an_items_texts(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    texts = ("a cat", "a man on a dog", "red")
    found = ask(model, image, *texts, task="match")
    assert [r.answer for output in found for r in output.ranking] == list(texts)
    assert sum(output.ranking[0].score for output in found) == pytest.approx(1)
    odds = []
    for text, output in zip(texts, found, strict=True):
        (alone,) = ask(model, image, text, task="match")
        assert output.fit == pytest.approx(alone.fit, abs=1e-5)
        assert alone.ranking[0].score == 1
        odds.append(alone.fit / (1 - alone.fit))
    assert [o.ranking[0].score for o in found] == pytest.approx(list(np.array(odds) / sum(odds)), abs=1e-5)


@pytest.mark.parametrize("kind", ["raw", "gradient", "rollout"])
def test_matching_shows_tokens_and_words(model: CompactModel, kind: str) -> None:
    (image,) = encode(model, noise())
    texts = ("a cat on the man's dog", "is this true?")
    for text, output in zip(texts, ask(model, image, *texts, task="match", maps=MapRequest(kind)), strict=True):  # type: ignore[arg-type]
        assert [t.text for t in output.tokens if t.special] == ["[CLS]", "[SEP]"]
        inner = [t for t in output.tokens if not t.special]
        assert [text[slice(*t.span)].lower() for t in inner if t.span] == [t.text.removeprefix("##") for t in inner]
        assert [w.text for w in output.words] == text.rstrip("?").split()
        for word in output.words:
            assert text[slice(*word.span)] == word.text
            assert all(output.tokens[i].span is not None for i in word.tokens)
        assert output.token_count == len(output.tokens)


@pytest.mark.parametrize("change", [{"matches": False}, {"blind": True}])
def test_a_model_that_has_not_learned_it_cannot_match(change: dict[str, bool]) -> None:
    other = tiny()
    other.net.config = replace(other.net.config, **change)  # type: ignore[arg-type]
    model = CompactModel(other.net, other.vocabulary, other.answers, id="x", revision="y")
    assert model.info.tasks == ("answer",)
    (image,) = encode(model, noise())
    (found,) = model.run("match", [Item(image, ("a cat",))])
    assert isinstance(found, ItemError)
    assert found.code == "task_not_supported"


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "code", "index", "detail"),
    [
        (("what", ""), "question_empty", 1, None),
        (("what", " \t"), "question_empty", 1, None),
        (("what", "is", "\u200b\u200d"), "question_empty", 2, None),
        (("cat " * 63,), "question_too_long", 0, {"tokens": 65, "limit": 64}),
        (("what", "你好吗"), "question_not_understood", 1, {"unknown_share": 1.0, "languages": ["en"]}),
        (("what 你 好 吗",), "question_not_understood", 0, {"unknown_share": 0.75, "languages": ["en"]}),
    ],
)
def test_a_text_that_cannot_be_asked(
    model: CompactModel, texts: tuple[str, ...], code: str, index: int, detail: dict[str, object] | None
) -> None:
    (image,) = encode(model, noise())
    (found,) = model.run("answer", [Item(image, texts)])
    assert isinstance(found, ItemError)
    assert (found.code, found.index, found.detail) == (code, index, detail)
    assert pickle.loads(pickle.dumps(found)).message == found.message  # noqa: S301  # it crosses a process


def test_the_longest_text_and_half_unknown_ones_are_answered(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    found = ask(model, image, "cat " * 62, "what is 你 好", "\U0001f431 cat")
    assert found[0].token_count == 64


def test_a_text_that_cannot_be_matched_is_named(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    for text, code in (("", "question_empty"), ("你好", "question_not_understood"), ("cat " * 99, "question_too_long")):
        (found,) = model.run("match", [Item(image, ("a cat", text))])
        assert isinstance(found, ItemError)
        assert (found.code, found.index) == (code, 1)


@pytest.mark.parametrize("maps", [MapRequest("similarity"), MapRequest("raw", (2,)), MapRequest("gradient", (0, -1))])
def test_a_map_that_cannot_be_made(model: CompactModel, maps: MapRequest) -> None:
    (image,) = encode(model, noise())
    (found,) = model.run("answer", [Item(image, ("what",), maps=maps)])
    assert isinstance(found, ItemError)
    assert (found.code, found.index) == ("map_not_supported", None)


def test_a_refused_item_harms_no_other(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    good = Item(image, QUESTIONS, maps=MapRequest())
    (expected,) = run(model, good)
    found = model.run("answer", [Item(image, ("",)), good, Item(image, ("你好",)), good, Item(image, ("cat " * 99,))])
    assert [getattr(error, "code", None) for error in found] == [
        "question_empty",
        None,
        "question_not_understood",
        None,
        "question_too_long",
    ]
    for output in (found[1], found[3]):
        assert isinstance(output, Output)
        for one, other in zip(output.texts, expected.texts, strict=True):
            near(one, other)


def test_a_task_that_it_cannot_do_is_refused_for_each_item(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    found = model.run("caption", [Item(image, ("a",)), Item(image, ("b",))])
    assert [getattr(error, "code", None) for error in found] == ["task_not_supported"] * 2
    assert "answer, match" in str(found[0])


# -- a question-only twin ---------------------------------------------------------------------------------------------


def blind_twin() -> CompactModel:
    seeing = tiny()
    net = CompactNet(replace(seeing.net.config, blind=True), vocabulary=len(seeing.vocabulary), answers=8)
    net.load_state_dict(seeing.net.state_dict())
    return CompactModel(net, seeing.vocabulary, seeing.answers, id="blind", revision="z")


def test_a_blind_twin_answers_any_image_alike_and_makes_no_maps() -> None:
    twin = blind_twin()
    one, other = encode(twin, noise(0), noise(1))
    for first, second in zip(ask(twin, one, *QUESTIONS), ask(twin, other, *QUESTIONS), strict=True):
        assert first.ranking == second.ranking
    assert twin.info.map_kinds == ()
    assert twin.info.default_map_kind is None
    for maps in (MapRequest(), MapRequest("raw"), MapRequest("gradient")):
        (found,) = twin.run("answer", [Item(one, ("what",), maps=maps)])
        assert isinstance(found, ItemError)
        assert found.code == "map_not_supported"


# -- masked patches ---------------------------------------------------------------------------------------------------


def test_scores_with_all_patches_are_the_models_own(model: CompactModel) -> None:
    (image,) = encode(model, noise())
    answer = ask(model, image, QUESTIONS[0])[0].ranking[0]
    keep = np.ones((3, 4, 4), dtype=np.bool_)
    keep[1] = False
    keep[2, 0, 0] = False
    found = model.score_masked(image, QUESTIONS[0], keep, answer.answer)
    assert found[0] == pytest.approx(answer.score, abs=1e-5)
    assert abs(found[1] - found[0]) > 1e-5
    assert abs(found[2] - found[0]) > 1e-7


def test_without_any_patch_every_image_is_the_same(model: CompactModel) -> None:
    nothing = np.zeros((1, 4, 4), dtype=np.bool_)
    found = [model.score_masked(image, QUESTIONS[0], nothing, "cat")[0] for image in encode(model, noise(0), noise(1))]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_only_its_own_images_can_be_masked(model: CompactModel) -> None:
    with pytest.raises(TypeError, match="did not encode"):
        model.score_masked(object(), "what", np.ones((1, 4, 4), dtype=np.bool_), "cat")  # type: ignore[arg-type]


def test_the_grid_has_a_cell_for_16_pixels() -> None:
    assert CompactConfig(size=256).cells == 16
    assert (tiny().info.rows, tiny().info.columns) == (4, 4)
