"""Published sizes: what docs/models.md says of their memory is what the configurations give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from model.published.causal.stack import kv_bytes
from tests.model.published.causal.sizes import SIZES

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SIZES)
def test_the_page_says_what_a_model_takes(name: str) -> None:
    """Built on the meta device: no memory is taken. Half precision, as on a GPU."""
    build, tokens = SIZES[name]
    with torch.device("meta"):
        net = build()
    row = re.search(rf"^\| {re.escape(name)} \| ([\d.]+) GB \| (\d+) \| ([\d.]+) MB \|$", PAGE, re.MULTILINE)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    kept = kv_bytes(net.config, tokens, torch.float16)
    if name.startswith("PaliGemma"):
        kept = 2 * tokens * net.config.get_text_config().hidden_size  # its features
    expected = f"| {name} | {2 * parameters / 1e9:.2f} GB | {tokens} | {kept / 1e6:.1f} MB |"
    assert row, expected
    assert row[0] == expected
