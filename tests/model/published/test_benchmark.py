"""The benchmark of families that write, at toy size: it runs, and both of its sides say the same."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import published_check
from benchmarks.published import measure_writing
from benchmarks.published_cases import CASES
from model.published.attention import AttentionPass
from tests.model.published.blip2.conftest import save_query
from tests.model.published.causal import checkpoints
from tests.model.published.causal.pairs import CausalPair
from tests.model.published.idefics.conftest import save_idefics
from tests.model.published.mllama.conftest import save_mllama

SAVERS: dict[str, Callable[[Path], object]] = {
    "blip-2": lambda folder: save_query(folder, "opt"),
    "mllama": lambda folder: save_mllama(folder, chat=False),
    "idefics": lambda folder: save_idefics(folder, "base"),
    "smolvlm": lambda folder: saved(checkpoints.smolvlm(folder)),
    "llava-onevision": lambda folder: saved(checkpoints.llava_onevision(folder)),
}


def saved(pair: CausalPair) -> None:
    """The pair's folder is all that is wanted."""


@pytest.mark.parametrize("family", CASES)
def test_it_runs(family: str, tmp_path: Path) -> None:
    options = argparse.Namespace(device="cpu", dtype="float32", tokens=4, repeats=1, threads=1, seconds=None)
    text = measure_writing(tmp_path, replace(CASES[family], save=SAVERS[family], image=(64, 48)), options)
    assert "Both sides say the same" in text
    assert text.count("\n|") == 9


def test_the_check_for_a_gpu_runs_in_small_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it tells wrong maps."""
    text, far = published_check.check(tmp_path / "right", toy=True)
    assert not far, text
    assert "20 of 20 tokens are the likeliest" in text
    right = AttentionPass.maps
    monkeypatch.setattr(AttentionPass, "maps", lambda *args, **rest: right(*args, **rest).flip(-1))
    text, far = published_check.check(tmp_path / "wrong", toy=True)
    assert far, text
