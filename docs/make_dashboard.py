"""Grafana's dashboard, from the documented metrics: ``python -m docs.make_dashboard FILE`` writes it.

One panel a row, in the order of docs/operations.md: counters as rates, histograms as median and 99th percentile, gauges
by replica. `tests/docs/test_dashboard.py` fails when it has drifted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from docs.make_operations import metric_families

FILE = Path(__file__).resolve().parent.parent / "deploy/kubernetes/overlays/monitoring/dashboard.json"
_HEIGHT, _WIDTH = 8, 24
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def queries(name: str, kind: str, labels: tuple[str, ...]) -> dict[str, str]:
    """What a panel asks Prometheus, by the name of its lines."""
    shown = " ".join(f"{{{{{label}}}}}" for label in labels) or "all replicas"
    chosen = '{job="$job"}'
    by = f" by ({', '.join(labels)})" if labels else ""
    if kind == "counter":
        return {shown: f"sum{by} (rate({name}{chosen}[$__rate_interval]))"}
    if kind == "histogram":
        inside = f"sum by ({', '.join(('le', *labels))}) (rate({name}_bucket{chosen}[$__rate_interval]))"
        return {
            f"{part} {shown}": f"histogram_quantile({share}, {inside})" for part, share in (("p50", 0.5), ("p99", 0.99))
        }
    return {"{{pod}}": f"{name}{chosen}"}


def unit(name: str, kind: str) -> str:
    """Grafana's unit of a metric."""
    if kind == "counter":
        return "cps"
    return "s" if name.endswith("_seconds") else "bytes" if name.endswith("_bytes") else "short"


def panel(number: int, name: str, kind: str, labels: tuple[str, ...], meaning: str) -> dict[str, Any]:
    """One row of the dashboard."""
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(queries(name, kind, labels).items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": meaning.rstrip("."),
        "description": name,
        "datasource": _SOURCE,
        "gridPos": {"x": 0, "y": number * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit(name, kind), "min": 0}, "overrides": []},
        "targets": targets,
    }


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    variables = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {"name": "job", "type": "textbox", "query": "crosslook", "current": {"value": "crosslook"}, "label": "job"},
    ]
    return {
        "title": "crosslook",
        "uid": "crosslook",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": [panel(number, *family) for number, family in enumerate(metric_families())],
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else FILE).write_text(text(), encoding="utf-8")
