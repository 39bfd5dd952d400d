"""The default model through CUDA graphs gives what it gives without: on a CUDA device where there is one; on the CPU
with the recording replaced, which leaves all of the buckets, buffers and bookkeeping."""

from __future__ import annotations

import pytest
import torch

from model.compact.cuda_graphs import FuseGraphs
from model.compact.model import CompactModel, tiny
from model.interface import Item, MapRequest
from model.kernels.graphs import GraphRunner
from tests.model.kernels.test_graphs import CUDA, Recorder
from tests.model.tools import QUESTIONS, encode, near, noise, run

TEXTS = (*QUESTIONS, "is it", "what color is the cat that is on the dog", "a b c d e f g h i j k l m n o p q r s t")


def batches(model: CompactModel) -> list[list[Item]]:
    """Items as the engine makes them: one question and many, one image and several, with each kind of map and none."""
    images = encode(model, *(noise(seed) for seed in range(3)))
    wanted = (None, MapRequest(), MapRequest("raw", (1,)), MapRequest("rollout"), MapRequest("gradient"))
    found = []
    for maps in wanted:
        found += [[Item(image, (text,), maps=maps)] for text in TEXTS for image in images]
        for sizes in ((1, 2), (2, 1), (1, 1, 1), (3,), (6, 6)):
            items = [
                Item(images[i], tuple(TEXTS[(i + j) % 6] for j in range(size)), maps=maps)
                for i, size in enumerate(sizes)
            ]
            found += [items, items[::-1]]
    return found


def check(plain: CompactModel, graphed: CompactModel) -> None:
    for _ in range(2):  # a graph is captured when its shapes come for the second time
        for own, other in zip(batches(plain), batches(graphed), strict=True):
            for one, two in zip(run(plain, *own), run(graphed, *other), strict=True):
                for expected, found in zip(one.texts, two.texts, strict=True):
                    if expected.answer_map is None:
                        assert found.answer_map is None
                        assert [r.answer for r in found.ranking] == [r.answer for r in expected.ranking]
                        scores = [r.score for r in expected.ranking]
                        assert [r.score for r in found.ranking] == pytest.approx(scores, abs=1e-5)
                    else:
                        near(found, expected)


def test_answers_and_maps_are_those_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed = tiny()
    graphs = FuseGraphs(graphed.net, runner=Recorder)
    monkeypatch.setattr(graphed, "_graphs", graphs)
    check(tiny(), graphed)
    assert isinstance(graphs.runner, Recorder)
    captured = graphs.runner.captured
    assert captured > 10
    check(tiny(), graphed)
    assert graphs.runner.captured == captured  # the second time all shapes are known


def test_which_kernels_have_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    assert model._graphs is None  # on the CPU
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    for kernel, expected in (("auto", True), ("triton", True), ("reference", False)):
        model.use_kernel(kernel)
        assert (model._graphs is not None) == expected
        assert {layer.cross.kernel for layer in model.net.fusion.layers} == {kernel}
    with pytest.raises(ValueError, match="unknown kernel"):
        model.use_kernel("flash")


@CUDA
@pytest.mark.parametrize("kernel", ["auto", "triton"])
def test_recorded_on_the_gpu(kernel: str) -> None:
    plain, graphed = tiny(device="cuda"), tiny(device="cuda")
    plain.use_kernel("reference")
    graphed.use_kernel(kernel)
    check(plain, graphed)
    assert graphed._graphs is not None
    runner = graphed._graphs.runner
    assert isinstance(runner, GraphRunner)
    assert runner.buckets  # no capture failed
    assert len(runner._graphs) > 10
