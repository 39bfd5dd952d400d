"""How a published model writes unless a request says otherwise: its folder's generation_config.json.

transformers' `GenerationConfig` defines the fields. Those of beam search are followed; of the others the log tells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_IGNORED = {"_from_model_config", "transformers_version", "use_cache", "output_attentions", "output_hidden_states"}
_TOKENS = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"}  # config.json has them, too
_MOST_BEAMS = 64


@dataclass(frozen=True, slots=True)
class BeamOptions:
    """What beam search follows, by the names of transformers' `GenerationConfig`."""

    num_beams: int = 3
    max_new_tokens: int = 20
    length_penalty: float = 1.0
    """A sequence is ranked by its log-probability over its length to this power."""
    repetition_penalty: float = 1.0
    """Log-probabilities of tokens that are there already are multiplied by this."""
    early_stopping: bool = False
    """Stop as soon as ``num_beams`` sequences have ended."""

    def shown(self) -> dict[str, float]:
        """By name, for the description of a model."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, bool)}


def _number(low: float, high: float) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        sound = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return float(value) if sound else None

    return read


def _count(high: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        return value if type(value) is int and 1 <= value <= high else None

    return read


def read_beam_options(folder: Path, default: BeamOptions, *, room: int) -> BeamOptions:
    """``default`` with what the folder's generation_config.json says in its place. ``room``: as many tokens as the
    model has positions for behind a prompt of one token.

    Raises ValueError for a file that is damaged or has a value that makes no sense.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return replace(default, max_new_tokens=min(default.max_new_tokens, room))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object")
    said = {name: value for name, value in found.items() if value is not None and name not in _IGNORED | _TOKENS}
    readers: dict[str, Callable[[Any], float | None]] = {
        "num_beams": _count(_MOST_BEAMS),
        "max_new_tokens": _count(1_000_000),
        "max_length": _count(1_000_000),
        "length_penalty": _number(-10.0, 10.0),
        "repetition_penalty": _number(0.01, 100.0),
        "early_stopping": lambda value: value if isinstance(value, bool) else None,
    }
    taken: dict[str, Any] = {}
    for name, read in readers.items():
        if name in said:
            taken[name] = read(said.pop(name))
            if taken[name] is None:
                raise ValueError(f"{path} says {name} = {str(found[name])[:80]!r}, which makes no sense")
    length = taken.pop("max_length", None)
    if length is not None and "max_new_tokens" not in taken:
        taken["max_new_tokens"] = max(1, length - 1)  # a length counts the token that begins the text
    others = sorted(name for name, value in said.items() if value is not False)  # do_sample false is what is done
    if others:
        logger.warning("%s: not followed: %s", path, ", ".join(others)[:300])
    options = replace(default, **taken)
    return replace(options, max_new_tokens=min(options.max_new_tokens, room))
