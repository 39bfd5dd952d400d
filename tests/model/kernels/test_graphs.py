"""The runner of CUDA graphs: its buckets and buffers anywhere, the recording itself on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from model.cross_attention import CrossAttention, KeysValues
from model.kernels.graphs import GraphRunner, Replay, pad_tokens

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Recorder(GraphRunner):
    """Stands in for the recording where there is no CUDA: runs on buffers of its own, as a graph does."""

    captured = 0

    def _capture(self, arguments: Sequence[Tensor], options: dict[str, Any]) -> Replay:
        self.captured += 1
        inputs = [x.clone() for x in arguments]
        outputs = tuple(torch.empty_like(x) for x in self.function(*inputs, **options))

        def replay(new: Sequence[Tensor]) -> tuple[Tensor, ...]:
            for mine, theirs in zip(inputs, new, strict=True):
                mine.copy_(theirs)
            for mine, theirs in zip(outputs, self.function(*inputs, **options), strict=True):
                mine.copy_(theirs)
            return outputs

        return replay


def attend(device: str = "cpu"):
    """A layer as the runner wants it: mean state over the real tokens, and the map of each token."""
    torch.manual_seed(0)
    layer = CrossAttention(16, 12, 2).to(device)

    def function(x: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        output, map_ = layer(x, KeysValues(keys, values), need_map=True)
        weights = mask.to(x.dtype)[..., None]
        return (output * weights).sum(1) / weights.sum(1), map_

    return function


def arguments(rows: int, tokens: int, seed: int, device: str = "cpu") -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, tokens, 16, generator=g)
    mask = torch.arange(tokens)[None] < torch.randint(1, tokens + 1, (rows, 1), generator=g)
    return tuple(y.to(device) for y in (x, mask, *torch.randn(2, rows, 2, 9, 8, generator=g)))


def check(runner: GraphRunner, function, device: str = "cpu") -> None:
    results = []
    for rows, tokens, seed in [(1, 3, 0), (2, 8, 1), (1, 5, 2), (1, 3, 3), (2, 6, 4), (1, 40, 5), (5, 4, 6)]:
        given = arguments(rows, tokens, seed, device)
        with torch.no_grad():
            results.append((runner(*given), function(*given)))
    for got, want in results:  # all at the end: no later call may change what an earlier one returned
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape
            assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_buckets_buffers_and_fallbacks() -> None:
    function = attend()
    runner = Recorder(function, padded=2, cropped=(1,), buckets=(16, 4, 8), max_rows=4, capture_at=1)
    check(runner, function)
    assert runner.captured == 3  # (1, 4), (2, 8), (1, 8); forty tokens and five rows run without


def test_the_longest_unused_graph_goes() -> None:
    runner = Recorder(attend(), cropped=(1,), buckets=(4, 8, 16), capture_at=1, max_graphs=2)
    for tokens, captured in [(4, 1), (8, 2), (4, 2), (16, 3), (4, 3), (8, 4)]:
        runner(*arguments(1, tokens, 0))
        assert runner.captured == captured


def test_shapes_that_come_once_are_not_captured() -> None:
    runner = Recorder(attend(), cropped=(1,), buckets=(4, 8, 16), max_graphs=1)
    for tokens, captured in [(4, 0), (8, 0), (4, 1), (3, 1), (8, 2), (8, 2), (4, 2), (4, 3)]:
        runner(*arguments(1, tokens, 0))
        assert runner.captured == captured
    runner = Recorder(attend(), cropped=(1,), buckets=(4, 8, 16), max_graphs=1)
    for tokens in (4, 8, 16, *range(20, 0, -1)):  # what is remembered of shapes is bounded too
        runner(*arguments(tokens % 8 + 1, min(tokens, 16), 0))
    assert len(runner._met) <= 5


def test_options_have_graphs_of_their_own() -> None:
    runner = Recorder(lambda x, mask, *, times: (x * times, mask), cropped=(0, 1), capture_at=1)
    x, mask = torch.ones(1, 3, 2), torch.ones(1, 3, dtype=torch.bool)
    for times, captured in [(2, 1), (3, 2), (2, 2)]:
        assert_close(runner(x, mask, times=times)[0], x * times)
        assert runner.captured == captured


def test_a_failed_capture_is_logged_and_answers_come_without_graphs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU: the arguments say that they are on a CUDA device, and the recording fails."""

    class Failing(GraphRunner):
        error: type[RuntimeError] = RuntimeError

        def _capture(self, arguments: Sequence[Tensor], options: dict[str, Any]) -> Replay:
            raise self.error("operation not permitted when stream is capturing")

    def function(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return x.sum(1), x * mask[..., None]

    given = arguments(1, 3, 0)[:2]
    monkeypatch.setattr(Tensor, "is_cuda", True)
    runner = Failing(function, cropped=(1,), capture_at=1)
    for _ in range(3):
        with torch.no_grad():
            found, expected = runner(*given), function(*given)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
    assert [record.message for record in caplog.records] == [
        "CUDA graphs are off, since a capture failed: operation not permitted when stream is capturing"
    ]
    runner = Failing(function, cropped=(1,), capture_at=1)
    runner.error = torch.OutOfMemoryError  # the worker knows what to do: run fewer at a time
    with pytest.raises(torch.OutOfMemoryError):
        runner(*given)


def test_needs_a_cuda_device() -> None:
    with pytest.raises(RuntimeError, match="CUDA graphs need tensors on a CUDA device, not on cpu"):
        GraphRunner(attend(), capture_at=1)(*arguments(1, 3, 0))


def test_pad_tokens() -> None:
    x = torch.ones(2, 3, 4)
    assert pad_tokens(x, 3) is x
    padded = pad_tokens(x, 5)
    assert torch.equal(padded[:, :3], x)
    assert (padded[:, 3:] == 0).all()
    assert not pad_tokens(torch.ones(1, 1, dtype=torch.bool), 2)[0, 1]


@CUDA
def test_recorded_on_the_gpu() -> None:
    function = attend("cuda")
    check(GraphRunner(function, cropped=(1,), buckets=(4, 8, 16), max_rows=4, capture_at=1), function, "cuda")
