"""Tiny causal checkpoints, made once each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.model.published.causal import checkpoints
from tests.model.published.causal.pairs import CausalPair

FAMILIES = (
    "llava",
    "llava_onevision",
    "idefics3",
    "smolvlm",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "gemma3",
    "gemma3_crops",
    "paligemma",
)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CausalPair]:
    """The pair of a family, by name."""
    made: dict[str, CausalPair] = {}

    def of(family: str) -> CausalPair:
        if family not in made:
            made[family] = getattr(checkpoints, family)(tmp_path_factory.mktemp("causal") / family)
        return made[family]

    return of


@pytest.fixture(params=FAMILIES, scope="session")
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], CausalPair]) -> CausalPair:
    """Each family's pair in turn."""
    return pairs(request.param)


@pytest.fixture(scope="session")
def llava(pairs: Callable[[str], CausalPair]) -> CausalPair:
    """LLaVA's."""
    return pairs("llava")
