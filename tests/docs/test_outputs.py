"""The pages whose code runs: it still does, and prints what they say."""

from __future__ import annotations

import re

import pytest

from tests.app.servers import ROOT
from tests.docs.outputs import renew

WEIGHTS = {  # from here on the outputs are the weights', which a training changes
    "cross-attention.md": "## The default model's maps",
    "cross-attention.zh-CN.md": "## 默认模型的注意力图",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_page_says_what_its_code_prints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    exact, model = page.split(WEIGHTS[name])
    new_exact, new_model = renew(page).split(WEIGHTS[name])  # runs all of it
    assert new_exact == exact, f"docs/{name} has drifted: python -m tests.docs.outputs docs/{name}"
    assert re.findall(r"^\w+", new_model, re.M) == re.findall(r"^\w+", model, re.M)
