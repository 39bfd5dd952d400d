"""Fill the tables of docs/maps.md, and the short one of README.md and README.zh-CN.md, from a report of
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
PAGES = (ROOT / "docs" / "maps.md", ROOT / "README.md", ROOT / "README.zh-CN.md")
_CHINESE = (
    ("Model `", "模型 `"),
    (", split `", "，部分 `"),
    ("`:", "`："),
    ("| map |", "| 图 |"),
    ("deletion (low is good)", "删除（越低越好）"),
    ("insertion (high is good)", "插入（越高越好）"),
    ("pointing (chance 25)", "指向（随机 25）"),
    ("best control", "最好的对照"),
    ("random weights", "随机权重"),
    ("other question", "别的问题"),
)


def filled(page: str, report: dict[str, Any], *, chinese: bool = False) -> str:
    """The page with what stands between its marks made anew: ``maps`` for all tables, ``maps in short`` for one."""
    rows = [MapRow.from_json(row) for row in report["maps"]]
    head = f"Model `{report['model']}` ({report['revision']}), split `{report['split']}`:"
    for mark, table in (("maps", map_tables), ("maps in short", map_summary)):
        begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->"
        between = re.escape(begin) + ".*?" + re.escape(end)
        text = f"{head}\n\n{table(rows)}\n"
        for english, translated in _CHINESE if chinese else ():
            text = text.replace(english, translated)
        text = f"{begin}{text}{end}"
        page = re.sub(between, lambda _, text=text: text, page, flags=re.S)
    return page


def main(report: Path = REPORT) -> int:
    figures = json.loads(report.read_text(encoding="utf-8"))
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        path.write_text(filled(page, figures, chinese=path.name.endswith(".zh-CN.md")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*map(Path, sys.argv[1:])))
