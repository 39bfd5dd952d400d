"""README in Chinese is level with README in English: the same parts, commands and figures."""

from __future__ import annotations

import re

import pytest

from tests.app.servers import ROOT

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def tables(page: str) -> list[list[list[str]]]:
    """Of each table the figures and names of each row: what a translation leaves as it is."""
    found = re.findall(r"(?:^\|.*\n)+", page, re.M)
    return [[re.findall(r"`[^`]+`|\d+(?:[.,]\d+)*", row) for row in table.splitlines()] for table in found]


def commands(page: str) -> list[list[str]]:
    """Of each block its lines, without what is said of them and what is asked."""
    blocks = re.findall(r"^```\w+\n(.*?)^```$", page, re.M | re.S)
    return [[re.sub(r'".*"|=[^@]*\'|#.*', "", line).rstrip() for line in block.splitlines()] for block in blocks]


@pytest.mark.parametrize("part", [tables, commands])
def test_both_have_the_same(part: object) -> None:
    assert callable(part)
    assert len(part(ENGLISH)) > 5
    assert part(CHINESE) == part(ENGLISH)


def test_both_have_the_same_parts_and_links() -> None:
    for pattern in (r"^#+", r"^!\[", r"^- "):
        assert len(re.findall(pattern, CHINESE, re.M)) == len(re.findall(pattern, ENGLISH, re.M)), pattern
    ours = {"README.md", "README.zh-CN.md", "docs/cross-attention.md", "docs/cross-attention.zh-CN.md"}
    links = [set(re.findall(r"\]\(([^)#\s]+)", page)) - ours for page in (ENGLISH, CHINESE)]
    assert links[0] - links[1] == {"docs/images/page.jpg"}
    assert links[1] - links[0] == {"docs/images/page-dark-zh.jpg"}


def test_what_the_table_of_folders_names_is_there() -> None:
    rows = re.findall(r"^\| `[\w/]+/`.*$", ENGLISH, re.M)
    assert len(rows) > 5
    for row in rows:
        first, *others = re.findall(r"`([\w./]+)`", row)
        assert (ROOT / first).is_dir(), first
        for name in others:
            assert (ROOT / name).exists() or (ROOT / first / name).exists(), name
