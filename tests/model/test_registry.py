"""From a name to a model, and what the operator reads where there is none. Published models: tests/model/published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.compact import model as compact
from model.compact.fusion import FusionLayer
from model.compact.model import CompactModel, tiny
from model.interface import MapRequest
from model.question_kinds import QUESTION_KINDS
from model.registry import load_model
from tests.model.tools import QUESTIONS, ask, encode, noise, scores

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The bound on threads is the process's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kernels(model: CompactModel) -> set[str]:
    return {layer.cross.kernel for layer in model.net.fusion.layers if isinstance(layer, FusionLayer)}


def test_tiny_and_a_folder(tmp_path: Path) -> None:
    tiny().save(tmp_path / "mine")
    own, saved = load_model("tiny", device="cpu"), load_model(str(tmp_path / "mine"), device="cpu")
    assert isinstance(own, CompactModel)
    assert isinstance(saved, CompactModel)
    assert (own.info.id, saved.info.id) == ("tiny", "mine")
    one, other = (ask(m, encode(m, noise())[0], QUESTIONS[0], top_k=8)[0] for m in (own, saved))
    assert scores(one) == pytest.approx(scores(other), abs=0.01)


@pytest.mark.skipif(not (compact.EMBEDDED / "model.safetensors").is_file(), reason="weights/compact has no weights")
def test_the_embedded_model_answers() -> None:
    model = load_model(device="cpu")
    assert isinstance(model, CompactModel)
    assert model.info.id == "compact"
    assert model.info.revision.startswith("sha256:")
    assert (model.info.rows, model.info.columns) == (20, 20)
    assert sum(file.stat().st_size for file in compact.EMBEDDED.iterdir()) <= 36 * 1024 * 1024
    assert {band.kind for band in model.info.reliability} == set(QUESTION_KINDS), "measured on these very weights"
    of_form = {(band.form, band.language) for band in model.info.reliability} - {(None, "en"), (None, "zh")}
    assert of_form == {("is there", "en"), ("is there", "zh")}
    (image,) = encode(model, noise())
    for kind in model.info.map_kinds:
        (found,) = ask(model, image, "What colour is the cat?", maps=MapRequest(kind))
        assert found.answer_map is not None
        assert found.answer_map.values.sum() + found.answer_map.elsewhere == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(not (compact.EMBEDDED / "model.safetensors").is_file(), reason="weights/compact has no weights")
def test_the_embedded_model_needs_no_library_of_models() -> None:
    """To import transformers takes longer than to load the model: only a published one may."""
    code = """
import sys
from PIL import Image
from model.interface import Item, MapRequest
from model.registry import load_model
model = load_model("compact", device="cpu")
image, = model.encode([model.info.preprocess(Image.new("RGB", (64, 48)))])
for task in model.info.tasks:
    model.run(task, [Item(image, ("is it red?",), maps=MapRequest())])
print([name for name in ("transformers", "triton", "torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_threads_and_kernel_are_set() -> None:
    for kernel in ("auto", "reference", "blocked"):
        model = load_model("tiny", device="cpu", threads=1, kernel=kernel)
        assert isinstance(model, CompactModel)
        assert kernels(model) == {kernel}
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("compat", r"'compat' is neither .* did you mean compact\?"),
        ("Compact", r"did you mean compact\?"),
        ("gpt2", r"'gpt2' is neither `compact`, a folder nor the name of a model on the hub \(owner/name\)$"),
        ("/no/such/folder", "'/no/such/folder' is neither"),
    ],
)
def test_a_wrong_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name, device="cpu")


def test_a_file_an_empty_folder_and_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; name the folder"):
        load_model(str(tmp_path / "model.safetensors"), device="cpu")
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        load_model(str(tmp_path), device="cpu")
    for content in ("{", "[]", "7", "[" * 100_000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="is no configuration"):
            load_model(str(tmp_path), device="cpu")
    for content in ({}, {"family": 7}, {"family": "other"}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="no model that crosslook knows"):
            load_model(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text(json.dumps({"family": "compact"}))
    with pytest.raises(FileNotFoundError, match=r"lacks vocabulary\.txt, answers\.txt"):
        load_model(str(tmp_path), device="cpu")


def test_a_checkout_without_weights_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact.load, "__defaults__", (tmp_path,))
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json, model\.safetensors"):
        load_model("compact", device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'; there are auto, cpu, cuda"),
        ({"device": ""}, "unknown device ''; there are auto, cpu, cuda"),
        *(
            ({"device": device}, f"unknown device '{device}'; there are auto, cpu, cuda and cuda:N")
            for device in ("mps", "xpu", "vulkan", "meta", "cuda:-1")
        ),
        ({"device": "cpu", "threads": -1}, "threads must be at least 1, not -1"),
        ({"device": "cpu", "threads": 0}, "threads must be at least 1, not 0"),
        ({"device": "cpu", "kernel": "fast"}, "unknown kernel 'fast'"),
    ],
)
def test_a_wrong_device_kernel_or_number_of_threads(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model("tiny", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="PyTorch finds no CUDA device"):
        load_model("tiny", device="cuda:1")
    assert load_model("tiny").info.id == "tiny"
