"""Builds the documentation site: ``python -m docs.make_site [FOLDER]`` (default build/site), by scripts/site.

The pages are the repository's own Markdown files where they lie, so that their links hold there too. They are copied
beside each other with what they show. A link to a file of the code, which is no page, leads to the repository
(``SITE_REPOSITORY``, such as https://host/owner/name/blob/main) or, without one, is text. Then MkDocs builds them,
strictly: a link that leads nowhere fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "SECURITY.md",
    "docs/*.md",
    "examples/CREDITS.md",
    "model/weights/compact/README.md",
    "benchmarks/results/*.md",
)
FILES = ("docs/notebook.ipynb", "docs/images/*", "docs/examples/*", "examples/*.jpg")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def stage(target: Path, repository: str = "") -> list[str]:
    """Copy all pages and what they show to ``target``; returns the pages' names."""
    pages = sorted(str(path.relative_to(ROOT)) for pattern in PAGES for path in ROOT.glob(pattern))
    files = {str(path.relative_to(ROOT)) for pattern in FILES for path in ROOT.glob(pattern)}
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    for name in pages:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text(encoding="utf-8")
        path.write_text(_linked(text, name, files | set(pages), repository), encoding="utf-8")
    return pages


def _linked(text: str, page: str, known: set[str], repository: str) -> str:
    """A page whose links to what is not on the site lead to the repository."""

    def link(match: re.Match[str]) -> str:
        _, words, target, _ = match.groups()
        place = os.path.normpath(PurePosixPath(page).parent / target)
        if place in known or not (ROOT / place).exists():  # what is nowhere is for MkDocs to complain of
            return match[0]
        return f"[{words}]({repository}/{place})" if repository else words

    return _LINK.sub(link, text)


def main(site: Path) -> int:
    """Stage the pages and run MkDocs."""
    staged = ROOT / "build" / "site-pages"
    shutil.rmtree(staged, ignore_errors=True)
    stage(staged, os.environ.get("SITE_REPOSITORY", "").rstrip("/"))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site.resolve())]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "true"}, check=False)  # noqa: S603
    if not done.returncode:
        sys.stdout.write(f"the site is in {site}: open index.html\n")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
