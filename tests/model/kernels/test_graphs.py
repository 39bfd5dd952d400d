"""The runner of CUDA graphs: its buckets and buffers anywhere, the recording itself on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence

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

    def _capture(self, arguments: Sequence[Tensor]) -> Replay:
        self.captured += 1
        inputs = [x.clone() for x in arguments]
        outputs = tuple(torch.empty_like(x) for x in self.function(*inputs))

        def replay(new: Sequence[Tensor]) -> tuple[Tensor, ...]:
            for mine, theirs in zip(inputs, new, strict=True):
                mine.copy_(theirs)
            for mine, theirs in zip(outputs, self.function(*inputs), strict=True):
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
    runner = Recorder(function, padded=2, cropped=(1,), buckets=(16, 4, 8), max_rows=4)
    check(runner, function)
    assert runner.captured == 3  # (1, 4), (2, 8), (1, 8); forty tokens and five rows run without


def test_the_longest_unused_graph_goes() -> None:
    runner = Recorder(attend(), cropped=(1,), buckets=(4, 8, 16), max_graphs=2)
    for tokens, captured in [(4, 1), (8, 2), (4, 2), (16, 3), (4, 3), (8, 4)]:
        runner(*arguments(1, tokens, 0))
        assert runner.captured == captured


def test_needs_a_cuda_device() -> None:
    with pytest.raises(RuntimeError, match="CUDA graphs need tensors on a CUDA device, not on cpu"):
        GraphRunner(attend())(*arguments(1, 3, 0))


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
    check(GraphRunner(function, cropped=(1,), buckets=(4, 8, 16), max_rows=4), function, "cuda")
