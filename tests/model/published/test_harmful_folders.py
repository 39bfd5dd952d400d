"""Folders that are damaged or made to do harm: the operator is told, and nothing is read that was not asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.published.loading import load, model_type
from tests.model.published.conftest import Pair


@pytest.fixture
def folder(answer: Pair, tmp_path: Path) -> Path:
    """A copy of a checkpoint's folder, to be spoilt."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(answer.folder, copy)
    return copy


def change(path: Path, *keys: str, value: Any) -> None:
    """Set one entry of a file of JSON."""
    whole = json.loads(path.read_text())
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("architectures",), {"a": 1}, "names no `architectures`"),
        (("architectures",), 3, "names no `architectures`"),
        (("architectures",), [["x"]], "cannot be read as a model .TypeError"),
        (("text_config", "bos_token_id"), None, "bos_token_id .* None"),
        (("text_config", "bos_token_id"), 10**6, "bos_token_id .* 1000000"),
        (("text_config", "sep_token_id"), None, "sep_token_id"),
        (("text_config", "pad_token_id"), -1, "pad_token_id"),
    ],
)
def test_a_config_of_nonsense_is_refused(folder: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    change(folder / "config.json", *keys, value=value)
    with pytest.raises(ValueError, match=message):
        load(folder, id="x")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"model_type": ' * 100_000])
def test_a_config_that_is_nested_without_end_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"cannot be read as a model .RecursionError"):
        model_type(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[" * 100_000, "RecursionError"), (b"{", "JSONDecodeError"), (b"\xff\xfe", "UnicodeDecodeError")],
)
def test_settings_for_images_that_cannot_be_read_are_refused(folder: Path, content: bytes, message: str) -> None:
    """In words that name the folder."""
    (folder / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{folder} cannot be read as a model .{message}"):
        load(folder, id="x")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), OSError("gone")])
def test_what_is_no_fault_of_the_folder_is_not_said_to_be(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker treats a lack of memory in its own way."""

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("model.published.checkpoint.load_tokenizer", fail)
    with pytest.raises(type(error)):
        load(folder, id="x")


def weights_elsewhere(folder: Path, name: str, index: str = "model.safetensors.index.json") -> None:
    """Move the weights into another file, pickled unless it is of safetensors, and say so in an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if name.endswith(".safetensors"):
        save_file(weights, folder / name, metadata={"format": "pt"})
    else:
        torch.save(weights, folder / name)
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)}))


@pytest.mark.parametrize("name", ["weights.bin", "weights.safetensors.index.json"])
def test_an_index_cannot_bring_in_pickled_weights(folder: Path, name: str) -> None:
    """transformers takes them from there even where it was asked for safetensors alone."""
    weights_elsewhere(folder, name)
    with pytest.raises(ValueError, match=r"names .* as its weights, which is no safetensors file"):
        load(folder, id="x")


@pytest.mark.parametrize(
    ("name", "index", "allow_pickle"),
    [
        ("../weights.safetensors", "model.safetensors.index.json", False),
        ("../weights.safetensors", "model.safetensors.index.json", True),
        ("../weights.bin", "pytorch_model.bin.index.json", True),
    ],
)
def test_weights_outside_of_the_folder_are_not_read(folder: Path, name: str, index: str, allow_pickle: bool) -> None:
    weights_elsewhere(folder, name, index)
    with pytest.raises(ValueError, match=r"names .* as its weights, which is no file of that folder"):
        load(folder, id="x", allow_pickle=allow_pickle)


def test_a_config_cannot_name_an_index_of_its_own(folder: Path) -> None:
    """One in a folder below would not be looked into, and its weights are no part of the revision."""
    (folder / "below").mkdir()
    weights_elsewhere(folder, "weights.bin", "below/model.safetensors.index.json")
    change(folder / "config.json", "transformers_weights", value="below/model.safetensors.index.json")
    with pytest.raises(ValueError, match="which is no file of that folder"):
        load(folder, id="x")


@pytest.mark.parametrize(
    ("name", "index", "allow_pickle"),
    [
        ("weights.safetensors", "model.safetensors.index.json", False),
        ("weights.bin", "pytorch_model.bin.index.json", True),
    ],
)
def test_an_index_of_files_of_the_folder_is_followed(folder: Path, name: str, index: str, allow_pickle: bool) -> None:
    """As large checkpoints have it."""
    weights_elsewhere(folder, name, index)
    assert load(folder, id="x", allow_pickle=allow_pickle).info.tasks == ("answer",)


def test_an_index_of_pickled_weights_that_are_not_read_does_no_harm(folder: Path) -> None:
    """Repositories have both kinds side by side."""
    index = {"metadata": {}, "weight_map": {"x": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert load(folder, id="x").info.tasks == ("answer",)
