"""What a map misses on a collage."""

import torch

from model.compact.objects import Evidence
from model.training.losses import miscount, miss


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


def test_a_doubtful_count_is_missed_least_by_evidence_that_doubts() -> None:
    def evidence(*shares: float) -> Evidence:
        counts = torch.tensor([[*shares, *[0.0] * (11 - len(shares))]]).clamp_min(1e-4).log()
        there = torch.tensor([1 - shares[0]]).logit(1e-4)
        return Evidence(counts, there, torch.zeros(1, 22), torch.zeros(1, 4), torch.zeros(1, 22))

    known = torch.zeros(1, 11)
    known[0, :3] = torch.tensor([0.2, 0.5, 0.3])
    right = miscount(evidence(0.2, 0.5, 0.3), known)
    for other in (evidence(0.0, 1.0), evidence(0.5, 0.3, 0.2), evidence(0.2, 0.3, 0.5)):
        assert miscount(other, known) > right
    mixed = torch.cat([known, torch.zeros(1, 11)])
    both = Evidence(*(torch.cat(pair) for pair in zip(evidence(0.2, 0.5, 0.3), evidence(1.0), strict=True)))
    assert miscount(both, mixed) == right, "a row without a known count teaches nothing"
