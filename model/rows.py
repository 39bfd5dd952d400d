"""The rows of one image side by side: cross-attention in which many questions share the keys of one image.

A batch has a row for each text, and several texts may ask the same image. Its keys and values are never copied for
them: the rows of one image become one long row of queries, ``[images, rows * tokens, dim]`` in place of
``[images * rows, tokens, dim]``. Attention looks at each query by itself, so the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.cross_attention import CrossAttention, KeysValues


@dataclass(frozen=True, slots=True)
class Source:
    """What rows of a batch attend to: keys and values of ``count`` images (or other sequences), each asked by ``rows``
    rows, which stand side by side in the batch."""

    layers: Sequence[KeysValues]
    """For each layer, keys and values ``[count, heads, keys, head_dim]``."""
    rows: int = 1
    mask: Tensor | None = None
    """bool ``[count, keys]``: True where a key may be attended."""

    @property
    def count(self) -> int:
        """How many images (or other sequences) there are."""
        return self.layers[0].keys.shape[0]

    @property
    def total_rows(self) -> int:
        """The rows of the batch that are this source's: ``count * rows``."""
        return self.count * self.rows


def attend(
    attention: CrossAttention,
    x: Tensor,
    sources: Sequence[Source],
    layer: int,
    *,
    row_mask: Tensor | None = None,
    need_map: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``x`` ``[rows, tokens, dim]``, the rows of ``sources`` in their order, through the layer's ``attention``.

    ``row_mask`` ``[rows, keys]``, in place of the sources' own masks where rows of one image may attend to different
    keys: bool (True: may be attended), or float, added to the scores. Returns the attended output ``[rows, tokens,
    dim]`` and, on request, the map ``[rows, tokens, keys]``. Raises ValueError where sizes do not fit (see
    `CrossAttention.forward`).
    """
    outputs, maps, start = [], [], 0
    for source in sources:
        rows = slice(start, start + source.total_rows)
        part, start = x[rows], rows.stop
        wide = part.reshape(source.count, source.rows * part.shape[1], part.shape[2])
        mask = source.mask if row_mask is None else _by_query(row_mask[rows], source.count, part.shape[1], x.dtype)
        output, found = attention(wide, source.layers[layer], mask=mask, need_map=need_map)
        outputs.append(output.reshape(part.shape))
        if found is not None:
            maps.append(found.reshape(part.shape[0], part.shape[1], -1))
    return _joined(outputs), _joined(maps) if maps else None


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_query(allowed: Tensor, count: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """Bool or numbers ``[count * rows, keys]`` as what is added to the scores of ``tokens`` queries per row, ``[count,
    1, rows * tokens, keys]``."""
    bias = allowed.to(dtype)
    if allowed.dtype == torch.bool:
        bias = torch.zeros_like(bias).masked_fill_(~allowed, -torch.inf)
    return bias.view(count, -1, bias.shape[-1]).repeat_interleave(tokens, 1)[:, None]
