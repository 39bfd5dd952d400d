"""The default model's pass from token ids to the answer's vector through CUDA graphs (see `model.kernels.graphs`)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from model.compact.network import CompactNet, Fused, ImageState
from model.kernels.graphs import GraphRunner


class FuseGraphs:
    """`CompactNet.fuse` for small batches on a CUDA device. Inference only; hooks of the network do not run.

    A graph belongs to token and row counts, to how the rows share images, and to the kernel that the network had when
    it was captured. ``runner`` is the class that captures.
    """

    def __init__(self, net: CompactNet, runner: type[GraphRunner] = GraphRunner) -> None:
        self.net = net
        maps = range(2, 2 + len(net.fusion.layers))
        self.runner = runner(self._fuse, padded=2, cropped=maps)

    def __call__(
        self, ids: Tensor, mask: Tensor, images: Sequence[tuple[ImageState, int]], *, need_maps: bool = False
    ) -> Fused:
        """``ids`` and ``mask`` ``[rows, tokens]``, as `CompactNet.fuse` takes them; the same result."""
        flat = [tensor for state, _ in images for tensor in state.tensors()]
        rows = tuple(rows for _, rows in images)
        vector, fit, *maps = self.runner(ids, mask, *flat, rows=rows, need_maps=need_maps)
        return Fused(vector, fit, maps)

    def _fuse(
        self, ids: Tensor, mask: Tensor, *flat: Tensor, rows: tuple[int, ...], need_maps: bool
    ) -> tuple[Tensor, ...]:
        """`CompactNet.fuse` as `GraphRunner` takes it: tensors alone, an image's behind another's."""
        each = len(flat) // len(rows)
        images = []
        for i, count in enumerate(rows):
            state = ImageState.of_tensors(flat[i * each : (i + 1) * each], len(self.net.fusion.layers))
            images.append((state, count))
        fused = self.net.fuse(ids, mask, images, need_maps=need_maps)
        return fused.vector, fused.fit, *fused.maps
