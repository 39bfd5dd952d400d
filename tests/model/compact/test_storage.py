"""Weights on disk: how far they may move, what is kept exactly, and the name of a revision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from model.compact.model import tiny
from model.compact.storage import Uninitialised, forget, load_small, recall, revision_of, save_small


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    magnitude=st.sampled_from([1e-6, 1e-3, 1.0, 300.0]),
    seed=st.integers(0, 1000),
)
def test_a_matrix_moves_by_half_a_step_of_its_row_at_most(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], magnitude: float, seed: int
) -> None:
    """A step is 1/127 of the row's largest entry, which itself is kept."""
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * magnitude
    save_small({"weight": weight}, path)
    loaded = load_small(path)
    assert list(loaded) == ["weight"]
    assert loaded["weight"].dtype == torch.float32
    assert loaded["weight"].shape == weight.shape
    largest = weight.flatten(1).abs().amax(1)
    error = (loaded["weight"] - weight).flatten(1).abs().amax(1)
    assert (error <= largest / 254 * 1.001).all()
    assert torch.allclose(loaded["weight"].flatten(1).abs().amax(1), largest)


def test_vectors_are_float16_and_zeros_stay_zero(tmp_path: Path) -> None:
    vector, scalar = torch.linspace(-3, 3, 31), torch.tensor(0.37)
    tensors = {"bias": vector, "scalar": scalar, "zeros": torch.zeros(3, 4), "half": torch.ones(2, 2).half()}
    save_small(tensors, tmp_path / "w.safetensors")
    loaded = load_small(tmp_path / "w.safetensors")
    assert torch.equal(loaded["bias"], vector.half().float())
    assert loaded["scalar"] == scalar.half().float()
    assert torch.equal(loaded["zeros"], torch.zeros(3, 4))
    assert torch.equal(loaded["half"], torch.ones(2, 2))


def test_a_row_of_small_entries_keeps_its_own_scale(tmp_path: Path) -> None:
    """One large row does not cost the others their digits."""
    weight = torch.tensor([[1000.0, -500.0], [0.001, 0.0005]])
    save_small({"weight": weight}, tmp_path / "w.safetensors")
    assert torch.allclose(load_small(tmp_path / "w.safetensors")["weight"], weight, rtol=0.01)


def test_a_parameter_called_scale_is_one(tmp_path: Path) -> None:
    """Only the scales that belong to a stored matrix are left out."""
    save_small({"norm.scale": torch.ones(3)}, tmp_path / "w.safetensors")
    assert list(load_small(tmp_path / "w.safetensors")) == ["norm.scale"]


@pytest.mark.parametrize("scale", [None, torch.ones(1), torch.ones(3)])
def test_a_matrix_without_a_scale_for_each_row_is_refused(tmp_path: Path, scale: torch.Tensor | None) -> None:
    """Its bare 8-bit numbers would be taken for weights."""
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.ones(2, 4, dtype=torch.int8)} | ({} if scale is None else {"weight.scale": scale}), path)
    with pytest.raises(ValueError, match="weight has 8 bits"):
        load_small(path)


def test_a_matrix_takes_a_quarter_of_its_float32_size(tmp_path: Path) -> None:
    save_small({"weight": torch.randn(256, 512)}, tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").stat().st_size < 1.02 * 256 * 512 + 1024 + 500


def test_a_revision_names_bytes_and_file_names(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(b"same")
    first = revision_of(files)
    assert first.startswith("sha256:")
    assert len(first) == len("sha256:") + 16
    assert revision_of(files[::-1]) == first
    files[1].write_bytes(b"sama")
    assert revision_of(files) != first
    files[1].write_bytes(b"same")
    files[1].rename(tmp_path / "c")
    assert revision_of([files[0], tmp_path / "c"]) != first


def test_modules_are_made_without_random_numbers_where_weights_follow() -> None:
    weights = nn.Conv2d(3, 4, 2).state_dict()
    before = torch.get_rng_state()
    with Uninitialised():
        net = nn.Conv2d(3, 4, 2)
        nn.init.normal_(tensor=net.weight)
    assert torch.equal(torch.get_rng_state(), before)
    net.load_state_dict(weights, assign=True)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_a_state_dict_has_the_files_names_and_the_net_its_own() -> None:
    """The names in weight files are older than those in the code; the embedded file has them too."""
    model = tiny()
    stored = model.net.state_dict()
    renamed = {
        "patches.nowhere": model.net.patches.null_key,
        "head.reliance.weight": model.net.head.yes_from_fit.weight,
    }
    for name, own in renamed.items():
        assert stored[name] is own or stored[name].data_ptr() == own.data_ptr()
    assert not any("null_key" in name or "yes_from_text" in name or "yes_from_fit" in name for name in stored)
    other = tiny(seed=1)
    other.net.load_state_dict(stored)
    for name, value in other.net.state_dict().items():
        assert torch.equal(value, stored[name]), name


def test_a_part_that_was_forgotten_is_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({"kept": nn.Linear(3, 4), "gone": nn.Linear(4, 2)})
    save_small(net.state_dict(), tmp_path / "w.safetensors")
    stored, part = load_small(tmp_path / "w.safetensors"), load_small(tmp_path / "w.safetensors", "gone.")
    assert sorted(part) == ["gone.bias", "gone.weight"]
    net.load_state_dict(stored)
    x = torch.randn(5, 4)
    expected = net["gone"](x)
    forget(net["gone"])
    assert [parameter.numel() for parameter in net["gone"].parameters()] == [0, 0]
    assert net["kept"].weight.numel() == 12
    recall(net["gone"], tmp_path / "w.safetensors", "gone.")
    assert torch.equal(net["gone"](x), expected)
