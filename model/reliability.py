"""What a score has meant: of answers with such a score to such a kind of question, how many were right on photographs
that were kept from training.

A model's folder holds the table as ``reliability.json``, made by ``python -m model.evaluation.reliability``. It names
the revision of the weights that it was measured on, and is not used with others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from model.interface import QuestionForm, QuestionKind, ReliabilityBand

RELIABILITY = "reliability.json"


@dataclass(frozen=True, slots=True)
class ReliabilityTable:
    """The bands of a model with this ``revision``, measured on the questions of a ``split`` and on what is in
    ``boxes`` photographs with every thing's box."""

    revision: str
    split: str
    images: int
    questions: int
    bands: tuple[ReliabilityBand, ...]
    boxes: int = 0

    def save(self, folder: Path) -> None:
        """Write it into a model's folder, a band a line."""
        head = {name: value for name, value in asdict(self).items() if name != "bands"}
        rows = ({name: value for name, value in asdict(band).items() if value is not None} for band in self.bands)
        bands = ",\n  ".join(map(json.dumps, rows))
        (folder / RELIABILITY).write_text(f'{json.dumps(head)[:-1]}, "bands": [\n  {bands}\n]}}\n', encoding="utf-8")


def load_table(folder: Path) -> ReliabilityTable | None:
    """The table in a model's folder, None where there is none. Raises ValueError where the file is no such table."""
    file = folder / RELIABILITY
    if not file.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        bands = tuple(ReliabilityBand(**band) for band in values.pop("bands"))
        table = ReliabilityTable(**values, bands=bands)
        forms = (None, *get_args(QuestionForm))
        known = all(band.kind in get_args(QuestionKind) and band.form in forms for band in bands)
        if not known or not all(0 <= band.low < band.high <= 1 for band in bands):
            raise ValueError("a band of no known kind or form, or not within 0 and 1")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} does not hold a table of reliability: {error}") from error
    return table


def find_band(
    bands: Sequence[ReliabilityBand],
    kind: QuestionKind,
    score: float,
    language: str = "en",
    form: QuestionForm | None = None,
) -> ReliabilityBand | None:
    """The band of an answer to a question of ``kind`` and ``form`` with ``score``: of the form, where it has bands of
    its own. None where nothing of the kind was measured in this ``language``."""
    of_kind = [band for band in bands if (band.kind, band.language) == (kind, language)]
    own = [band for band in of_kind if band.form == form] or [band for band in of_kind if band.form is None]
    return next((band for band in own if band.low <= score < band.high), own[-1] if own and score >= 1 else None)
