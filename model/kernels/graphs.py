"""CUDA graphs over buckets of token counts, for batches so small that launching kernels takes longer than running them.

A graph replays the very same kernels on the very same memory. So questions are padded to the next bucket of tokens, a
graph is captured the first time a bucket (with its other shapes) is met, and inputs are copied to where that graph
reads them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
Replay = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]

BUCKETS = (8, 12, 16, 24, 32, 48, 64)


class GraphRunner:
    """Runs ``function`` through CUDA graphs. Inference only: no gradient passes through.

    * ``function`` takes tensors and gives a tuple of tensors, and must not look at their values on the host. Padding
      tokens must not change what it gives for the others: it needs the mask among its arguments.
    * ``padded``: how many of the first arguments are ``[rows, tokens, ...]`` , padded with zeros (False in masks).
    * ``cropped``: which of the results are ``[rows, tokens, ...]`` and lose their padding again.
    * ``buckets``: token counts, ascending. Longer questions and more than ``max_rows`` rows run without a graph.
    * ``max_graphs``: the graphs kept; the one that was longest unused goes. Each holds its inputs and intermediates.

    Not thread-safe, like the model. Raises RuntimeError for tensors that are not on a CUDA device.
    """

    def __init__(
        self,
        function: Function,
        *,
        padded: int = 2,
        cropped: Sequence[int] = (),
        buckets: Sequence[int] = BUCKETS,
        max_rows: int = 8,
        max_graphs: int = 16,
    ) -> None:
        self.function = function
        self.padded, self.cropped = padded, frozenset(cropped)
        self.buckets = tuple(sorted(buckets))
        self.max_rows, self.max_graphs = max_rows, max_graphs
        self._graphs: OrderedDict[tuple[Any, ...], Replay] = OrderedDict()

    @torch.no_grad()
    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """What ``function(*arguments)`` gives, in tensors of its own: the next call does not change them."""
        rows, tokens = arguments[0].shape[:2]
        bucket = next((size for size in self.buckets if size >= tokens), None)
        if bucket is None or rows > self.max_rows:
            return self.function(*arguments)
        full = [pad_tokens(x, bucket) if i < self.padded else x for i, x in enumerate(arguments)]
        key = tuple((tuple(x.shape), x.dtype, x.device) for x in full)
        if key not in self._graphs:
            self._graphs[key] = self._capture(full)
            while len(self._graphs) > self.max_graphs:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        results = self._graphs[key](full)
        return tuple(x[:, :tokens].clone() if i in self.cropped else x.clone() for i, x in enumerate(results))

    def _capture(self, arguments: Sequence[Tensor]) -> Replay:
        """Record ``function`` on copies of these arguments. Returns what replays it on others of the same shapes."""
        if not all(x.is_cuda for x in arguments):
            raise RuntimeError(f"CUDA graphs need tensors on a CUDA device, not on {arguments[0].device}")
        inputs = [x.clone() for x in arguments]
        stream = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(inputs[0].device))
        with torch.cuda.device(inputs[0].device), torch.cuda.stream(stream):
            for _ in range(3):  # kernels are compiled and libraries start up outside of the recording
                self.function(*inputs)
        torch.cuda.current_stream(inputs[0].device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(inputs[0].device), torch.cuda.graph(graph):
            outputs = self.function(*inputs)

        def replay(new: Sequence[Tensor]) -> tuple[Tensor, ...]:
            for mine, theirs in zip(inputs, new, strict=True):
                mine.copy_(theirs)
            graph.replay()
            return outputs

        return replay


def pad_tokens(x: Tensor, tokens: int) -> Tensor:
    """``[rows, n, ...]`` -> ``[rows, tokens, ...]``, zeros (False) behind."""
    if x.shape[1] == tokens:
        return x
    padded = x.new_zeros(x.shape[0], tokens, *x.shape[2:])
    padded[:, : x.shape[1]] = x
    return padded
