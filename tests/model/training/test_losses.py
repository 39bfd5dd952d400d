"""What a map misses on a collage."""

import torch

from model.training.losses import miss


def test_a_map_that_lies_on_its_quarter_misses_nothing() -> None:
    rows, tokens, cells = 4, 3, 4
    places = torch.arange(rows)
    maps = torch.zeros(rows, tokens, 1 + cells * cells)
    for row, cell in enumerate((0, 3, 12, 10)):  # one of each quarter: rows 0-1 or 2-3, columns 0-1 or 2-3
        maps[row, :, 1 + cell] = 1.0
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    on_place = miss(maps, mask, places)
    elsewhere = miss(maps, mask, places.flip(0))
    assert on_place.abs() < 0.01
    assert elsewhere > 5
    assert miss(maps, mask, torch.tensor([0, -1, -1, -1])).abs() < 0.01, "-1: nowhere to point"
