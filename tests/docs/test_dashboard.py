"""The dashboard is of the metrics that there are; so is every query of the manifests and the documentation."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from docs import make_dashboard
from docs.make_operations import metric_families
from tests.app.servers import ROOT

FAMILIES = {name: (kind, labels) for name, kind, labels, _ in metric_families()}
QUERIES = [
    (panel["description"], target["expr"])
    for panel in json.loads(make_dashboard.FILE.read_text())["panels"]
    for target in panel["targets"]
]
OTHERS = [*(ROOT / "deploy").rglob("*.yaml"), ROOT / "docs" / "scaling.md", ROOT / "docs" / "operations.md"]


def test_it_has_not_drifted() -> None:
    """Run ``python -m docs.make_dashboard`` when this fails."""
    assert make_dashboard.FILE.read_text() == make_dashboard.text()


def known(sample: str) -> bool:
    """Whether a server has a sample of that name."""
    family = re.sub(r"_(bucket|sum|count)$", "", sample)
    return sample in FAMILIES or FAMILIES.get(family, ("", ()))[0] == "histogram"


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=lambda text: text[:40])
def test_every_query_names_metrics_and_labels_that_exist(name: str, query: str) -> None:
    samples = re.findall(r"crosslook_\w+", query)
    assert samples
    assert all(known(sample) for sample in samples)
    grouped = re.search(r"by \((.*?)\)", query)
    given = set(grouped[1].split(", ")) if grouped else set()
    assert given - {"le"} <= set(FAMILIES[name][1])


def test_every_metric_has_its_row() -> None:
    assert {name for name, _ in QUERIES} == set(FAMILIES)
    rows = [panel["gridPos"]["y"] for panel in make_dashboard.dashboard()["panels"]]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: "/".join(path.parts[-3:]))
def test_no_other_query_names_what_is_not_there(path: object) -> None:
    text = path.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert [name for name in re.findall(r"\bcrosslook_[a-z_]+(?=[{\[`])", text) if not known(name)] == []


def test_the_rules_are_about_codes_that_exist() -> None:
    from crosslook.errors import CODES

    rules = yaml.safe_load((ROOT / "deploy/kubernetes/overlays/monitoring/rules.yaml").read_text())
    expressions = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    codes = [code for text in expressions for found in re.findall(r'code=~?"(.*?)"', text) for code in found.split("|")]
    assert codes
    assert set(codes) <= set(CODES)
