"""How a published model writes unless a request says otherwise: its folder's generation_config.json.

transformers' `GenerationConfig` defines the fields. Those of beam search (`BeamOptions`) or of writing token by token
(`WritingDefaults`) are followed; of the others the log tells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

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


_BEAMS = {"num_beams", "early_stopping", "length_penalty", "num_return_sequences", "num_beam_groups"}
_OWN = {"do_sample", "temperature"}  # a request's own: without them, the likeliest token is taken
_KEPT = {"cache_implementation", "return_dict_in_generate", "output_scores", "output_logits", "disable_compile"}
_LONGEST_ANSWER = 4096
_MOST_IDS = 100_000


@dataclass(frozen=True, slots=True)
class WritingDefaults:
    """How a model writes token by token where a request says nothing, by the names of transformers'
    `GenerationConfig`. ``top_p`` and ``top_k`` count where a request has a temperature."""

    max_new_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()

    def processors(self, context: int, ends: Collection[int], device: torch.device) -> list[LogitsProcessor]:
        """What changes the logits of an answer behind ``context`` tokens that ends with one of ``ends``: transformers'
        own, in the order in which `generate` applies them."""
        end_ids = torch.tensor(sorted(ends), device=device)
        made: list[LogitsProcessor] = []
        if self.repetition_penalty != 1.0:
            made.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            made.append(NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.bad_words_ids:
            made.append(NoBadWordsLogitsProcessor([list(ids) for ids in self.bad_words_ids], end_ids))
        if self.min_new_tokens and ends:
            made.append(MinNewTokensLengthLogitsProcessor(context, self.min_new_tokens, end_ids))
        if self.suppress_tokens:
            made.append(SuppressTokensLogitsProcessor(list(self.suppress_tokens)))
        if self.begin_suppress_tokens:
            made.append(SuppressTokensAtBeginLogitsProcessor(list(self.begin_suppress_tokens), context))
        return made

    def shown(self) -> dict[str, float]:
        """For the description of a model: what is not as if nothing were said."""
        found = {"max_new_tokens": float(self.max_new_tokens), "temperature": 0.0}
        found["repetition_penalty"] = self.repetition_penalty
        others = {name: float(getattr(self, name)) for name in ("top_k", "no_repeat_ngram_size", "min_new_tokens")}
        found |= {name: value for name, value in others.items() if value}
        return found | ({} if self.top_p == 1.0 else {"top_p": self.top_p})


def read_writing_defaults(config: Any, *, max_new_tokens: int, room: int, where: object) -> WritingDefaults:
    """What transformers' ``config`` (a `GenerationConfig`, as it read the folder ``where``) says of writing; of at most
    ``room`` tokens. ``max_new_tokens``: where it says nothing.

    Raises ValueError for a value that makes no sense.
    """
    said = {name: value for name, value in config.to_diff_dict().items() if value is not None}
    readers: dict[str, Callable[[Any], Any]] = {
        "max_new_tokens": _count(_LONGEST_ANSWER),
        "top_p": _number(0.0, 1.0),
        "top_k": lambda value: 0 if value == 0 and value is not False else _count(1_000_000)(value),
        "repetition_penalty": _number(0.01, 100.0),
        "no_repeat_ngram_size": lambda value: 0 if value == 0 else _count(1000)(value),
        "min_new_tokens": lambda value: 0 if value == 0 else _count(_LONGEST_ANSWER)(value),
        "bad_words_ids": _id_lists,
        "suppress_tokens": _ids,
        "begin_suppress_tokens": _ids,
    }
    taken: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    for name, read in readers.items():
        if name in said:
            taken[name] = read(said[name])
            if taken[name] is None:
                raise ValueError(f"{where} says {name} = {str(said[name])[:80]!r}, which makes no sense")
    known = {*readers, *_IGNORED, *_TOKENS, *_BEAMS, *_OWN, *_KEPT}
    others = sorted(name for name, value in said.items() if name not in known and not _is_plain(value))
    if others:
        logger.warning("%s: not followed of its generation_config.json: %s", where, ", ".join(others)[:300])
    taken["max_new_tokens"] = max(1, min(taken["max_new_tokens"], room))
    return WritingDefaults(**taken)


def ends_of(*configs: Any) -> tuple[int, ...]:
    """The tokens that end an answer, the usual one first: of the first of these configurations (or tokenizers) that
    names any. Raises ValueError where none does."""
    for config in configs:
        found = getattr(config, "eos_token_id", None)
        if found is not None and found != []:
            return tuple(map(int, found)) if isinstance(found, list | tuple) else (int(found),)
    raise ValueError("the folder names no eos_token_id, which ends an answer")


def _is_plain(value: Any) -> bool:
    """Whether a value is one of those with which transformers' fields change nothing."""
    return value is False or (isinstance(value, int | float) and value is not True and value in (0, 1))


def _ids(value: Any) -> tuple[int, ...] | None:
    sound = isinstance(value, list | tuple) and len(value) <= _MOST_IDS and all(type(one) is int for one in value)
    return tuple(value) if sound and min(value, default=0) >= 0 else None


def _id_lists(value: Any) -> tuple[tuple[int, ...], ...] | None:
    if not isinstance(value, list | tuple) or len(value) > _MOST_IDS:
        return None
    found = [_ids(one) for one in value]
    return tuple(one for one in found if one) if all(found) else None
