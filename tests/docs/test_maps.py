"""docs/maps.md: its code prints what it says, and its tables are those of the last report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.make_maps import PAGES, REPORT, filled
from model.evaluation.judging import Interval
from model.evaluation.report import Evaluation, MapRow, write_report
from tests.app.servers import ROOT
from tests.docs.outputs import renew

PAGE = ROOT / "docs" / "maps.md"


def test_the_page_says_what_its_code_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = PAGE.read_text(encoding="utf-8")
    assert renew(page) == page, "docs/maps.md has drifted: python -m tests.docs.outputs docs/maps.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_last_report(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    made = filled(text, json.loads(REPORT.read_text()), chinese=page.name == "README.zh-CN.md")
    assert "maps in short: begin" in text or page == PAGE
    assert made == text, "python -m docs.make_maps"


def test_a_report_fills_a_page(tmp_path: Path) -> None:
    half, quarter = Interval(0.5, 0.4, 0.6, 9), Interval(0.25, 0.2, 0.3, 9)
    rows = [
        MapRow("uniform", "all", half, quarter, quarter, None, None, control=True),
        MapRow("centre", "all", quarter, half, half, None, None, control=True),
        MapRow("raw", "all", quarter, half, half, Interval(-0.2, -0.3, -0.1, 9), None, deletion_apart=True),
    ]
    write_report(Evaluation("m", "r1", "dev", maps=rows), tmp_path / "report.md")
    report = json.loads((tmp_path / "report.json").read_text())
    marks = [f"<!-- {mark}: begin -->\nold\n<!-- {mark}: end -->" for mark in ("maps", "maps in short")]
    page = filled("before\n" + "\nbetween\n".join(marks) + "\nafter\n", report)
    assert "old" not in page
    assert page.startswith("before\n<!-- maps: begin -->\nModel `m` (r1), split `dev`:\n\n| map | questions |")
    assert "- `raw`, all: deletion beats every control, intervals apart; insertion not measured." in page
    assert "| `raw` | 25.0 [20.0, 30.0] | 50.0 [40.0, 60.0] | 50.0 [40.0, 60.0] |" in page
    last = "| best control | 25.0 [20.0, 30.0] (centre) | 50.0 [40.0, 60.0] (centre) | 50.0 [40.0, 60.0] (centre) |"
    assert page.endswith(f"{last}\n<!-- maps in short: end -->\nafter\n")
    assert filled(page, report) == page
