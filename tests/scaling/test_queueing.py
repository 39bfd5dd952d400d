"""The simulation of replicas, where theory says what must come out."""

from __future__ import annotations

import pytest

from benchmarks.queueing import Case, render, simulate
from tests.app.servers import ROOT


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_replica_waits_as_the_theory_of_queues_says(load: float) -> None:
    """Pollaczek and Khinchine: with equal service times the mean wait is load / (2 (1 - load)) of one."""
    made = simulate(Case(1, load / 0.01, images=1, encode=0.0, answer=0.01, requests=200_000))
    assert made.mean == pytest.approx(0.01 * (1 + load / (2 * (1 - load))), rel=0.05)
    assert made.busiest == pytest.approx(load, rel=0.02)


def test_affinity_makes_one_cache_of_many() -> None:
    """Four replicas keep four times as many images, and without it each the same ones."""
    common = {"rate": 40.0, "images": 400, "encode": 0.02, "answer": 0.002, "cache": 100}
    apart, together = (simulate(Case(4, affinity=affinity, **common)) for affinity in (False, True))
    assert apart.hits == pytest.approx(0.25, abs=0.02)
    assert together.hits > 0.9
    assert together.mean < apart.mean


def test_the_tables_of_the_page_are_these() -> None:
    """Run ``python -m benchmarks.queueing`` when this fails."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert render(page) == page
