"""The pages whose code runs: it still does, and prints what they say."""

from __future__ import annotations

import re

import pytest

from tests.app.servers import ROOT
from tests.docs.outputs import renew

NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.mark.parametrize("name", ["cross-attention.md"])
def test_the_page_says_what_its_code_prints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    renewed = renew(page)
    message = f"docs/{name} has drifted: python -m tests.docs.outputs docs/{name}"
    assert NUMBER.sub("0", renewed) == NUMBER.sub("0", page), message
    # Another processor rounds otherwise: one step in the last digit that the page shows.
    for mine, theirs in zip(NUMBER.findall(renewed), NUMBER.findall(page), strict=True):
        digits = len(theirs.partition(".")[2])
        assert abs(float(mine) - float(theirs)) <= 1.01 * 10**-digits, message
