"""Fill the tables of docs/maps.md (and README.md's short one, where it has the marks) from a report of
``crosslook-server eval --maps``: python -m docs.make_maps [REPORT.json]"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from model.evaluation.report import MapRow, map_summary, map_tables

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "maps-dev.json"


def filled(page: str, report: dict[str, Any]) -> str:
    """The page with what stands between its marks made anew: ``maps`` for all tables, ``maps in short`` for one."""
    rows = [MapRow.from_json(row) for row in report["maps"]]
    head = f"Model `{report['model']}` ({report['revision']}), split `{report['split']}`:"
    for mark, table in (("maps", map_tables), ("maps in short", map_summary)):
        begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->"
        between = re.escape(begin) + ".*?" + re.escape(end)
        text = f"{begin}{head}\n\n{table(rows)}\n{end}"
        page = re.sub(between, lambda _, text=text: text, page, flags=re.S)
    return page


def main(report: Path = REPORT) -> int:
    figures = json.loads(report.read_text(encoding="utf-8"))
    for path in (ROOT / "docs" / "maps.md", ROOT / "README.md"):
        path.write_text(filled(path.read_text(encoding="utf-8"), figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*map(Path, sys.argv[1:])))
