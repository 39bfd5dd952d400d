"""The compact model's folder: saved and loaded, and what is said of a folder that is not whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.compact.model import CompactModel, load, tiny
from model.compact.storage import FITTED, load_small, save_small
from model.interface import MapRequest
from tests.model.tools import QUESTIONS, ask, encode, near, noise, scores


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return tiny()


def test_saved_and_loaded_it_says_the_same(model: CompactModel, tmp_path: Path) -> None:
    """Exactly, after a first rounding: storing is lossless from then on. To what rounding costs, before."""
    model.save(tmp_path / "one")
    once = load(tmp_path / "one")
    once.save(tmp_path / "two")
    twice = load(tmp_path / "two", id="other")
    assert (once.info.id, twice.info.id) == ("one", "other")
    assert (once.answers, once.vocabulary) == (model.answers, model.vocabulary)
    assert once.net.config == model.net.config
    outputs = [ask(m, encode(m, noise())[0], *QUESTIONS, top_k=8, maps=MapRequest()) for m in (model, once, twice)]
    for original, rounded, again in zip(*outputs, strict=True):
        assert scores(rounded) == pytest.approx(scores(original), abs=0.01)
        near(again, rounded, 1e-4)


def test_the_revision_is_of_what_the_folder_holds(model: CompactModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    first = load(tmp_path).info.revision
    assert load(tmp_path).info.revision == first
    tiny(seed=1).save(tmp_path)
    assert load(tmp_path).info.revision != first
    assert tiny(seed=1).info.revision != tiny(seed=0).info.revision


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", b'"temperature": 1.0', b'"temperature": 2.0'),
        ("vocabulary.txt", b"\ncat\n", b"\ncow\n"),
        ("answers.txt", b"\ncat\n", b"\ncow\n"),
        ("model.safetensors", None, b""),
    ],
)
def test_the_revision_is_of_each_file(tmp_path: Path, name: str, old: bytes | None, new: bytes) -> None:
    tiny().save(tmp_path)
    first, file = load(tmp_path).info.revision, tmp_path / name
    whole = file.read_bytes()
    changed = whole[:-1] + bytes([whole[-1] ^ 1]) if old is None else whole.replace(old, new)
    assert changed != whole
    file.write_bytes(changed)
    assert load(tmp_path).info.revision != first


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.txt", "answers.txt"])
def test_a_folder_that_lacks_a_file(model: CompactModel, tmp_path: Path, name: str) -> None:
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", json.dumps({"family": "other"}).encode()),
        ("config.json", json.dumps({"family": "compact", "wings": 2}).encode()),
        ("config.json", json.dumps({"family": "compact", "vision": "huge"}).encode()),
        ("config.json", json.dumps({"family": "compact"}).encode()),
        ("config.json", json.dumps({"family": "compact", "default_map_kind": "similarity"}).encode()),
        ("config.json", b"[" * 100_000),
        ("vocabulary.txt", b"cat\n"),
        ("answers.txt", b"cat\n"),
        ("answers.txt", b"\xff\xfe"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
    ],
)
def test_a_folder_with_a_broken_file(model: CompactModel, tmp_path: Path, name: str, content: bytes) -> None:
    model.save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="does not hold a compact model"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_heads": 0}, "cross_heads"),
        ({"num_heads": 5}, "num_heads"),
        ({"fusion_heads": 7}, "fusion_heads"),
        ({"size": 80}, "size"),
        ({"temperature": 0}, "temperature"),
        ({"yes_no_temperature": -1.0}, "temperature"),
        ({"yes_no_temperature": 0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperatures": {"count": 0.0}}, "temperature"),
        ({"temperatures": {"counts": 1.0}}, "temperatures"),
    ],
)
def test_figures_that_no_network_can_have(
    model: CompactModel, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """They would divide by zero, turn the ranking round, or answer with no numbers."""
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=f"does not hold a compact model: {message} "):
        load(tmp_path)


def test_tensors_fitted_later_stand_in_place_of_the_first(tmp_path: Path) -> None:
    """They are a part of the revision, and gone when the model is saved whole."""
    model = tiny()
    model.save(tmp_path)
    first, bias = load(tmp_path).info.revision, torch.linspace(-1, 1, len(model.answers))
    save_small({"head.bias": bias}, tmp_path / FITTED)
    later = load(tmp_path)
    torch.testing.assert_close(later.net.head.bias, bias, atol=1e-3, rtol=0.0)
    assert torch.equal(later.net.head.answers, load_small(tmp_path / "model.safetensors")["head.answers"])
    assert later.info.revision != first
    save_small({"head.bias": bias[1:]}, tmp_path / FITTED)
    with pytest.raises(ValueError, match=r"size mismatch for head\.bias"):
        load(tmp_path)
    later.save(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == ["detector.safetensors", "model.safetensors"]
    assert torch.equal(load(tmp_path).net.head.bias, later.net.head.bias)


def test_answers_with_odd_signs_survive_the_folder(tmp_path: Path) -> None:
    """Line separators of Unicode are no ends of lines here."""
    other = tiny()
    answers = ["yes", "no", "caf\u00e9", "a\u2028b", "x\x85y", "\U0001f431", "1/2", "it's"]
    made = CompactModel(other.net, other.vocabulary, answers, id="x", revision="y", detector=other.detector)
    made.save(tmp_path)
    assert load(tmp_path).answers == answers


def test_loading_fills_every_tensor(model: CompactModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    net = load(tmp_path).net
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        assert not tensor.is_meta, name
        assert not tensor.requires_grad, name
    assert not net.training
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, model.net.get_buffer(name)), name


def test_the_folder_says_which_maps_are_the_default(model: CompactModel, tmp_path: Path) -> None:
    made = tiny()
    made.net.config = replace(made.net.config, default_map_kind="rollout", default_map_layers=(1,))
    made.save(tmp_path)
    info = load(tmp_path).info
    assert (info.default_map_kind, info.default_layers) == ("rollout", (1,))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["default_map_kind"], values["default_map_layers"]  # a folder from before there was a choice
    (tmp_path / "config.json").write_text(json.dumps(values))
    info = load(tmp_path).info
    assert (info.default_map_kind, info.default_layers) == ("raw", None)


@pytest.mark.parametrize("layers", [[2], [-1], [], "1", 1, [0.5]])
def test_default_layers_that_there_are_none_of(model: CompactModel, tmp_path: Path, layers: object) -> None:
    model.save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"default_map_layers": layers}))
    with pytest.raises(ValueError, match="does not hold a compact model"):
        load(tmp_path)
