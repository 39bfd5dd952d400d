"""Asks the forty questions of docs/examples.md again: ``python -m docs.make_forty DIR``.

``DIR`` has ``coco.tar`` and ``boxes.tar`` (see the model card). Questions and right answers stay as they were written
down; answers, scores and how many are right are the present weights'. `make_examples` puts the part into the page.
"""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path

from PIL import Image

from model.evaluation.ask import answer_texts
from model.evaluation.judging import judged_form
from model.registry import load_model

ROOT = Path(__file__).parents[1]
PART = ROOT / "docs" / "examples" / "forty.md"
PAGE = ROOT / "docs" / "examples.md"
_SURE = 0.6


def main(folder: Path) -> int:
    """Ask, and write the part and the page."""
    old = PART.read_text(encoding="utf-8")
    head, _, rows = old.partition("| --- | --- | --- | --- | --- | ---: | --- |\n")
    model = load_model("compact", device="cpu")
    archives = [tarfile.open(folder / name) for name in ("coco.tar", "boxes.tar")]  # noqa: SIM115 - until the end
    members = {Path(name).stem: (tar, name) for tar in archives for name in tar.getnames()}
    made, right, sure = [], 0, []
    for row in rows.splitlines():
        number, name, question, wanted = (cell.strip() for cell in row.split("|")[1:5])
        tar, member = members[name]
        with Image.open(tar.extractfile(member)) as image:  # type: ignore[arg-type]
            (encoded,) = model.encode([model.info.preprocess(image.convert("RGB"))])
        ((found,),) = answer_texts(model, [(encoded, [question])])
        is_right = judged_form(found.answer) in map(judged_form, wanted.split(" or "))
        right += is_right
        if not is_right and found.score > _SURE:
            sure.append(f"{found.score:.0%} (photograph {number})")
        verdict = "yes" if is_right else "**no**"
        made.append(f"| {number} | {name} | {question} | {wanted} | {found.answer} | {found.score:.0%} | {verdict} |")
    said = f"**{right} of {len(made)} are right**; wrong answers above {_SURE:.0%}: {', '.join(sure) or 'none'}."
    head = re.sub(r"\*\*\d+ of \d+ are right\*\*.*?\.\n", said + "\n", head, flags=re.S)
    line = "| --- | --- | --- | --- | --- | ---: | --- |"
    new = head + "\n".join([line, *made]) + "\n"
    PART.write_text(new, encoding="utf-8")
    PAGE.write_text(PAGE.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
