"""The benchmark of families that write, at toy size: it runs, and both of its sides say the same."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.published import measure_writing
from benchmarks.published_cases import CASES
from tests.model.published.blip2.conftest import save_query
from tests.model.published.idefics.conftest import save_idefics
from tests.model.published.mllama.conftest import save_mllama

SAVERS: dict[str, Callable[[Path], object]] = {
    "blip-2": lambda folder: save_query(folder, "opt"),
    "mllama": lambda folder: save_mllama(folder, chat=False),
    "idefics": lambda folder: save_idefics(folder, "base"),
}


@pytest.mark.parametrize("family", CASES)
def test_it_runs(family: str, tmp_path: Path) -> None:
    options = argparse.Namespace(device="cpu", dtype="float32", tokens=4, repeats=1, threads=1)
    text = measure_writing(tmp_path, replace(CASES[family], save=SAVERS[family]), options)
    assert "Both sides say the same" in text
    assert text.count("\n|") == 13
