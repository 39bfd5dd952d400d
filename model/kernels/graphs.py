"""CUDA graphs over buckets of token counts, for batches so small that launching kernels takes longer than running them.

A graph replays the very same kernels on the very same memory. So questions are padded to the next bucket of tokens, a
graph is captured the first time a bucket (with its other shapes) is met, and inputs are copied to where that graph
reads them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
Replay = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]

BUCKETS = (8, 12, 16, 24, 32, 48, 64)

logger = logging.getLogger(__name__)


class GraphRunner:
    """Runs ``function`` through CUDA graphs. Inference only: no gradient passes through.

    * ``function`` takes tensors (and keyword arguments that are hashable) and gives a tuple of tensors, and must not
      look at their values on the host. Padding tokens must not change what it gives for the others: it needs the mask
      among its arguments.
    * ``padded``: how many of the first arguments are ``[rows, tokens, ...]``, padded with zeros (False in masks).
    * ``cropped``: which of the results are ``[rows, tokens, ...]`` and lose their padding again.
    * ``buckets``: token counts, ascending. Longer questions and more than ``max_rows`` rows run without a graph.
    * ``capture_at``: shapes are captured when they are met for this time. A capture costs several runs, which shapes
      that do not come again would never bring back.
    * ``max_graphs``: the graphs kept; the one that was longest unused goes. Each holds its inputs and intermediates.

    Not thread-safe, like the model. Raises RuntimeError for tensors that are not on a CUDA device. Where a capture
    fails, a warning is logged, and everything runs without graphs from then on.
    """

    def __init__(
        self,
        function: Function,
        *,
        padded: int = 2,
        cropped: Sequence[int] = (),
        buckets: Sequence[int] = BUCKETS,
        max_rows: int = 8,
        capture_at: int = 2,
        max_graphs: int = 64,
    ) -> None:
        self.function = function
        self.padded, self.cropped = padded, frozenset(cropped)
        self.buckets = tuple(sorted(buckets))
        self.max_rows, self.capture_at, self.max_graphs = max_rows, capture_at, max_graphs
        self._graphs: OrderedDict[Hashable, Replay] = OrderedDict()
        self._met: OrderedDict[Hashable, int] = OrderedDict()

    @torch.no_grad()
    def __call__(self, *arguments: Tensor, **options: Hashable) -> tuple[Tensor, ...]:
        """What ``function(*arguments, **options)`` gives, in tensors of its own: the next call does not change them."""
        rows, tokens = arguments[0].shape[:2]
        bucket = next((size for size in self.buckets if size >= tokens), None)
        if bucket is None or rows > self.max_rows:
            return self.function(*arguments, **options)
        full = [pad_tokens(x, bucket) if i < self.padded else x for i, x in enumerate(arguments)]
        key = (tuple((tuple(x.shape), x.dtype, x.device) for x in full), tuple(sorted(options.items())))
        if key not in self._graphs and not self._add(key, full, options):
            return self.function(*arguments, **options)
        self._graphs.move_to_end(key)
        results = self._graphs[key](full)
        return tuple(x[:, :tokens].clone() if i in self.cropped else x.clone() for i, x in enumerate(results))

    def _add(self, key: Hashable, arguments: Sequence[Tensor], options: dict[str, Any]) -> bool:
        """Capture these shapes if their time has come; whether there is a graph for them now."""
        self._met[key] = self._met.pop(key, 0) + 1
        if self._met[key] < self.capture_at:
            if len(self._met) > 4 * self.max_graphs:
                self._met.popitem(last=False)
            return False
        del self._met[key]
        try:
            self._graphs[key] = self._capture(arguments, options)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or not arguments[0].is_cuda:
                raise
            logger.warning("CUDA graphs are off, since a capture failed: %s", error)
            self.buckets = ()
            return False
        while len(self._graphs) > self.max_graphs:
            self._graphs.popitem(last=False)
        return True

    def _capture(self, arguments: Sequence[Tensor], options: dict[str, Any]) -> Replay:
        """Record ``function`` on copies of these arguments. Returns what replays it on others of the same shapes."""
        if not all(x.is_cuda for x in arguments):
            raise RuntimeError(f"CUDA graphs need tensors on a CUDA device, not on {arguments[0].device}")
        inputs = [x.clone() for x in arguments]
        stream = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(inputs[0].device))
        with torch.cuda.device(inputs[0].device), torch.cuda.stream(stream):
            for _ in range(3):  # kernels are compiled and libraries start up outside of the recording
                self.function(*inputs, **options)
        torch.cuda.current_stream(inputs[0].device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(inputs[0].device), torch.cuda.graph(graph):
            outputs = self.function(*inputs, **options)

        def replay(new: Sequence[Tensor]) -> tuple[Tensor, ...]:
            for mine, theirs in zip(inputs[: self.padded], new, strict=False):
                mine.copy_(theirs)
            if rest := inputs[self.padded :]:
                torch._foreach_copy_(rest, list(new[self.padded :]))  # keys and values: one launch for many tensors
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
