"""The image networks' three ways: float32 equals PyTorch, int8 stays near it; which is chosen, and what is said."""

from __future__ import annotations

import json
import logging
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.compact import image_networks
from model.compact.calibration import measure_ranges
from model.compact.detector import NanoDet
from model.compact.image_networks import (
    CALIBRATION,
    ImageFeatures,
    OnnxNetworks,
    TorchNetworks,
    choose,
    letterboxed,
    load,
    stretched,
)
from model.compact.model import EMBEDDED, tiny
from model.compact.preprocess import Squash
from model.compact.storage import save_small
from model.compact.vision import EfficientNetLite

SIZE = 64


def networks(seed: int = 0) -> tuple[EfficientNetLite, NanoDet]:
    """Tiny ones, loud enough that their features differ from image to image; weights as storage would round them."""
    torch.manual_seed(seed)
    nets = EfficientNetLite("tiny"), NanoDet("tiny")
    for module in (module for net in nets for module in net.modules()):
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            scale = (module.weight.data.flatten(1).abs().amax(1) / 127).view(-1, 1, 1, 1)
            module.weight.data = (module.weight.data / scale).round() * scale
    return nets[0].eval().requires_grad_(False), nets[1].eval().requires_grad_(False)


def some_pixels(count: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """Smooth images, as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), np.uint8)
    return torch.from_numpy(np.stack([np.asarray(Image.fromarray(x).resize((size, size), 3)) for x in noise]))


def tensors(features: ImageFeatures) -> dict[str, Tensor]:
    found = {"fine": features.vision.fine, "coarse": features.vision.coarse, "classes": features.classes}
    if features.detections is not None:
        found |= {"scores": features.detections.scores, "boxes": features.detections.boxes}
        found |= {f"features.{i}": level for i, level in enumerate(features.detections.features)}
    return found


def error(found: Tensor, expected: Tensor) -> float:
    """Root of the mean squared difference, in deviations of what it should be."""
    return float((found - expected).pow(2).mean().sqrt() / expected.std())


@pytest.mark.parametrize("aspects", [[1.0], [1.0, 2.0, 0.75]])
def test_float32_is_what_pytorch_gives(aspects: list[float]) -> None:
    nets, pixels = networks(), some_pixels(len(aspects))
    expected = tensors(TorchNetworks(*nets)(pixels, aspects))
    found = tensors(OnnxNetworks(*nets, SIZE)(pixels, aspects))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_the_detector_sees_an_image_in_its_own_proportions() -> None:
    pixels = some_pixels(3)
    boxed, sides = letterboxed(pixels, [2.0, 1.0, 0.75])
    assert sides == [(64, 32), (64, 64), (48, 64)]
    assert torch.equal(boxed[1], pixels[1])
    halved = np.asarray(Image.fromarray(pixels[0].numpy()).resize((64, 32), Image.Resampling.BILINEAR))
    assert np.abs(boxed[0, :32].numpy().astype(int) - halved).max() <= 1
    assert boxed[0, 32:].unique(dim=0).tolist() == [[[124, 116, 104]] * 64]
    assert boxed[2, :, 48:].unique().tolist() == [104, 116, 124]
    assert letterboxed(pixels, [100.0, 1.01, 0.001])[1] == [(64, 32), (64, 64), (32, 64)], "of a panorama half is left"
    assert letterboxed(pixels, None)[0] is pixels


def test_what_is_found_in_such_an_image_is_told_by_the_square_one() -> None:
    detector = networks()[1]
    boxed, sides = letterboxed(some_pixels(2), [2.0, 0.5])
    raw = detector(boxed)
    found = stretched(raw, sides)
    assert torch.equal(found.scores, raw.scores)
    torch.testing.assert_close(found.boxes[0], raw.boxes[0] * torch.tensor([1.0, 2.0, 1.0, 2.0]))
    torch.testing.assert_close(found.boxes[1], raw.boxes[1] * torch.tensor([2.0, 1.0, 2.0, 1.0]))
    for level, whole in zip(found.features, raw.features, strict=True):
        assert level.shape == whole.shape
        half = whole.shape[-1] // 2
        torch.testing.assert_close(level[0, :, 0], whole[0, :, 0])  # the upper edge stays where it was
        torch.testing.assert_close(level[0, :, -1], whole[0, :, half - 1])  # the lower one becomes the square's
        torch.testing.assert_close(level[1, :, :, -1], whole[1, :, :, half - 1])


def test_int8_stays_near_and_is_no_float() -> None:
    nets = networks()
    ranges = measure_ranges(*nets, SIZE, some_pixels(8, seed=1).numpy())
    pixels = some_pixels(4, seed=2)
    expected, found = tensors(TorchNetworks(*nets)(pixels)), tensors(OnnxNetworks(*nets, SIZE, ranges)(pixels))
    for name, tensor in found.items():
        assert 1e-4 < error(tensor, expected[name]) < 0.3, name


def test_int8_of_an_image_is_the_same_in_any_batch() -> None:
    nets = networks()
    run = OnnxNetworks(*nets, SIZE, measure_ranges(*nets, SIZE, some_pixels(2).numpy()))
    pixels = some_pixels(3)
    together, alone = tensors(run(pixels)), tensors(run(pixels[1:2]))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name][1:2], atol=1e-6, rtol=1e-6, msg=name)


def test_a_tensor_without_a_range_stays_float32() -> None:
    """With one range alone, the one rounding is all that differs."""
    nets = networks()
    ranges = measure_ranges(*nets, SIZE, some_pixels(8).numpy())
    pixels = some_pixels(2)
    expected = tensors(TorchNetworks(*nets)(pixels))
    few = {name: ranges[name] for name in ("vision.blocks.4.project", "detector.lateral.1")}
    found, all_of = tensors(OnnxNetworks(*nets, SIZE, few)(pixels)), tensors(OnnxNetworks(*nets, SIZE, ranges)(pixels))
    for name in ("fine", "features.1"):
        assert 0 < error(found[name], expected[name]) < error(all_of[name], expected[name])


def test_without_a_detector_nothing_is_detected() -> None:
    vision, _ = networks()
    for run in (TorchNetworks(vision, None), OnnxNetworks(vision, None, SIZE)):
        assert run(some_pixels(1)).detections is None


def test_sessions_keep_no_memory_for_later() -> None:
    vision, detector = networks()
    sessions = OnnxNetworks(vision, detector, SIZE)
    for session in (sessions._vision, sessions._detector):
        assert session is not None
        assert not session.get_session_options().enable_cpu_mem_arena


def test_a_model_on_the_runtime_can_be_copied() -> None:
    """As evaluation does, to shuffle the copy's attention."""
    model = tiny(dtype="float32")
    twin = deepcopy(model)
    assert twin.net is not model.net
    assert twin.image_networks.way == "float32"


def test_no_images_have_no_ranges() -> None:
    with pytest.raises(ValueError, match="no images"):
        measure_ranges(*networks(), SIZE, [])


class TestChoice:
    vision, ranges = networks()[0], {"vision.stem": (0.0, 6.0)}

    def way(self, *, ranges: image_networks.Ranges | None = ranges, dtype: str = "auto") -> str:
        return choose(self.vision, None, SIZE, ranges=ranges, dtype=dtype).way

    def test_int8_on_a_cpu_that_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(image_networks, "lacks_for_int8", lambda: None)
        assert [self.way(dtype=dtype) for dtype in ("auto", "int8", "float32", "float16", "torch")] == [
            *("int8", "int8", "float32", "float32", "torch")
        ]

    @pytest.mark.parametrize("lacks", ["cpu", "calibration", "runtime"])
    def test_what_is_used_instead_is_said(
        self, lacks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(image_networks, "lacks_for_int8", lambda: "an old CPU" if lacks == "cpu" else None)
        if lacks == "runtime":
            monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with caplog.at_level(logging.WARNING):
            way = self.way(ranges=None if lacks == "calibration" else self.ranges)
        assert way == ("torch" if lacks == "runtime" else "float32")
        assert len(caplog.records) == 1
        said = {"cpu": "an old CPU: images go", "calibration": "no calibration.json", "runtime": "not installed"}
        assert said[lacks] in caplog.text

    @pytest.mark.parametrize(
        ("machine", "cpu", "lacks"),
        [
            ("x86_64", "flags : avx2 avx512f avx512_vnni fma", False),
            ("AMD64", "flags : avx2 avx_vnni", False),
            ("x86_64", "flags : avx2 avx512f avx512bw", True),
            ("x86_64", "", True),
            ("aarch64", "", False),
            ("arm64", "", False),
            ("riscv64", "", True),
        ],
    )
    def test_the_cpus_for_int8(self, machine: str, cpu: str, lacks: bool) -> None:
        assert bool(image_networks.lacks_for_int8(machine, cpu)) == lacks


class TestFolder:
    @pytest.mark.parametrize("detects", [True, False])
    def test_with_a_detector_and_without(self, tmp_path: Path, detects: bool) -> None:
        vision, detector = networks()
        (tmp_path / "config.json").write_text(json.dumps({"vision": "tiny", "size": SIZE}))
        save_small({f"vision.{k}": v for k, v in vision.state_dict().items()}, tmp_path / "model.safetensors")
        if detects:
            weights = {f"detector.{k}": v for k, v in detector.state_dict().items()}
            save_small(weights, tmp_path / "detector.safetensors")
        ranges = measure_ranges(vision, detector, SIZE, some_pixels(2).numpy())
        image_networks.save_ranges(tmp_path / CALIBRATION, ranges, images=2)
        assert image_networks.load_ranges(tmp_path / CALIBRATION) == ranges
        found = load(tmp_path, dtype="torch")(some_pixels(1))
        assert (found.detections is not None) == detects
        expected = TorchNetworks(vision, detector)(some_pixels(1))
        torch.testing.assert_close(found.vision.fine, expected.vision.fine, atol=0.1, rtol=0.1)

    @pytest.mark.parametrize(
        "text",
        ["{", "[]", '{"ranges": {"a": [0]}}', '{"ranges": {"a": [1, 0]}}', '{"ranges": {"a": [0, NaN]}}', '{"a": 1}'],
    )
    def test_ranges_that_are_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / CALIBRATION).write_text(text)
        with pytest.raises(ValueError, match=r"calibration\.json"):
            image_networks.load_ranges(tmp_path / CALIBRATION)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_embedded_weights(dtype: str) -> None:
    """What the shipped calibration does to photographs: it belongs to the shipped weights."""
    photographs = sorted((Path(__file__).parents[3] / "examples").glob("*.jpg"))
    pixels = torch.from_numpy(np.stack([Squash(320, 20, 20)(Image.open(f).convert("RGB")).values for f in photographs]))
    networks = load(EMBEDDED, dtype="torch")
    assert isinstance(networks, TorchNetworks)
    with torch.no_grad():
        expected = tensors(networks(pixels))
    ranges = image_networks.load_ranges(EMBEDDED / CALIBRATION) if dtype == "int8" else None
    found = tensors(OnnxNetworks(networks.vision, networks.detector, 320, ranges)(pixels))
    for name, tensor in found.items():
        assert error(tensor, expected[name]) < (0.15 if dtype == "int8" else 1e-4), name
