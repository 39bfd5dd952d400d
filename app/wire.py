"""Model outputs to wire types."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from app.offload import by_size
from crosslook import types as wire
from model import interface as model
from model.languages import has_han
from model.question_kinds import question_form, question_kind
from model.reliability import find_band

T = TypeVar("T")

_BYTES_OF_A_CELL = 8  # of a float map's JSON
_POWERS = np.array([10.0**k for k in range(23)])  # those that a float holds exactly


async def formatted(output: model.Output, make: Callable[[], T]) -> T:
    """What ``make`` makes of the output: off the event loop where its maps are large."""
    maps = [text.answer_map for text in output.texts]
    maps += [token.map for text in output.texts for token in (*text.tokens, *text.answer_tokens)]
    grids = [grid for found in maps if found is not None for grid in (found.values, *found.others)]
    return await by_size(_BYTES_OF_A_CELL * sum(grid.size for grid in grids), make)


def to_json(response: BaseModel) -> str:
    """`BaseModel.model_dump_json`, result by result: the whole of a large response at once would hold all threads."""
    results = getattr(response, "results", None)
    if not results:
        return response.model_dump_json()
    around = response.model_copy(update={"results": []}).model_dump_json()
    return around.removesuffix("]}") + ",".join(result.model_dump_json() for result in results) + "]}"


def significant(values: NDArray[np.floating], digits: int = 4) -> NDArray[np.float64]:
    """``values`` ``[...]`` (any shape) rounded to ``digits`` significant digits, as floats that print no more.

    An integer divided by an exact power of ten is correctly rounded, so it prints short. Numbers below 1e-19 lose
    digits; those above ``10**digits`` keep all before the point. A loop over ``format`` is fifty times slower.
    """
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        exponents = np.floor(np.log10(np.abs(exact)))
    exponents = np.where(np.isfinite(exponents), exponents, 0.0)
    powers = _POWERS[np.clip(digits - 1 - exponents, 0, len(_POWERS) - 1).astype(np.intp)]
    return cast("NDArray[np.float64]", np.rint(exact * powers) / powers)


def number(value: float, digits: int = 4) -> float:
    """One float, rounded like `significant`."""
    return float(f"{value:.{digits}g}")


def encode_maps(sources: Sequence[model.Map | None], encoding: wire.MapEncoding) -> list[wire.Map | None]:
    """Maps of one grid in the encoding that was asked for, all at once: a call of numpy costs more than a map."""
    given = [source for source in sources if source is not None]
    if not given:
        return [None] * len(sources)
    if given[0].others:
        return [None if source is None else _several(source, encoding) for source in sources]
    values = np.stack([source.values for source in given])
    made: Iterator[wire.Map]
    if encoding == "float":
        rounded = significant(values).tolist()
        made = (
            wire.FloatMap(values=rows, elsewhere=number(source.elsewhere))
            for rows, source in zip(rounded, given, strict=True)
        )
    else:
        flat = values.reshape(len(values), -1)
        scales = flat.max(1, initial=0.0).astype(np.float64) / 255.0
        levels = np.rint(np.maximum(flat, 0.0) / np.where(scales > 0.0, scales, 1.0)[:, None]).astype(np.uint8)
        made = (
            wire.U8Map(
                data=base64.b64encode(level).decode(), scale=number(scale, 6), elsewhere=number(source.elsewhere)
            )
            for level, scale, source in zip(levels, scales.tolist(), given, strict=True)
        )
    return [None if source is None else next(made) for source in sources]


def _several(source: model.Map, encoding: wire.MapEncoding) -> wire.Map:
    """One map over several images. Bytes have one scale for all of them."""
    if encoding == "float":
        first, *rest = (significant(values).tolist() for values in (source.values, *source.others))
        return wire.FloatMap(values=first, elsewhere=number(source.elsewhere), others=rest)
    grids = (source.values, *source.others)
    scale = max(float(values.max(initial=0.0)) for values in grids) / 255.0
    levels = [np.clip(np.rint(values / (scale or 1.0)), 0, 255).astype(np.uint8) for values in grids]
    first, *rest = (base64.b64encode(level.tobytes()).decode() for level in levels)
    return wire.U8Map(data=first, scale=number(scale, 6), elsewhere=number(source.elsewhere), others=rest)


def tokens(
    source: Sequence[model.Token], encoding: wire.MapEncoding, whole: model.Map | None = None
) -> tuple[list[wire.Token], wire.Map | None]:
    """Tokens with their maps, and the map of the ``whole`` text."""
    *maps, last = encode_maps([*(t.map for t in source), whole], encoding)
    made = [wire.Token(text=t.text, span=t.span, special=t.special, map=m) for t, m in zip(source, maps, strict=True)]
    return made, last


def words(source: Sequence[model.Word]) -> list[wire.Word]:
    """Words and their tokens."""
    return [wire.Word(text=w.text, span=w.span, tokens=list(w.tokens)) for w in source]


def image_ref(image_id: str, geometry: model.Geometry) -> wire.ImageRef:
    """The image as the server saw it."""
    return wire.ImageRef(id=image_id, width=geometry.width, height=geometry.height)


def attention(
    info: model.MapInfo | None, geometry: model.Geometry, encoding: wire.MapEncoding
) -> wire.Attention | None:
    """How the maps were made and where they lie; None when there are none."""
    if info is None:
        return None
    others = [
        wire.FurtherImage(width=one.width, height=one.height, grid=_grid(one), region=_region(one))
        for one in geometry.others
    ]
    return wire.Attention(
        kind=info.kind,
        layers=list(info.layers),
        layer_reduction=info.layer_reduction,
        head_reduction=info.head_reduction,
        composition=info.composition,
        gates=[number(gate, 4) for gate in info.gates] or None,
        heads=list(info.heads) or None,
        encoding=encoding,
        grid=_grid(geometry),
        region=_region(geometry),
        others=others or None,
    )


def _grid(geometry: model.Geometry) -> wire.Grid:
    return wire.Grid(rows=geometry.rows, columns=geometry.columns)


def _region(geometry: model.Geometry) -> wire.Region:
    region = geometry.region
    return wire.Region(left=region.left, top=region.top, right=region.right, bottom=region.bottom)


def reliability(info: model.ModelInfo, question: str, text: model.TextOutput) -> wire.Reliability | None:
    """What such a score to such a question has meant; None where that was not measured, as for given candidates."""
    if not info.reliability or text.score_over == "candidates":
        return None
    language = "zh" if has_han(question) else "en"
    kind, form = question_kind(question), question_form(question)
    band = find_band(info.reliability, kind, text.ranking[0].score, language, form)
    if band is None:
        return None
    return wire.Reliability(kind=band.kind, right=band.right, count=band.count, form=band.form)


def _band(band: model.ReliabilityBand) -> wire.ReliabilityBand:
    return wire.ReliabilityBand(**asdict(band) | {"language": None if band.language == "en" else band.language})


def answer_result(
    info: model.ModelInfo, question: str, text: model.TextOutput, encoding: wire.MapEncoding
) -> wire.AnswerResult:
    """What the model says to one question. Scores have 6 significant digits."""
    best = text.ranking[0]
    question_tokens, answer_map = tokens(text.tokens, encoding, text.answer_map)
    return wire.AnswerResult(
        question=question,
        answer=best.answer,
        score=number(best.score, 6),
        score_over=text.score_over,
        ranking=[
            wire.RankedAnswer(
                answer=r.answer, score=number(r.score, 6), in_vocabulary=r.in_vocabulary, english=r.english
            )
            for r in text.ranking
        ],
        rest=None if text.rest is None else number(text.rest, 6),
        question_tokens=question_tokens,
        question_words=words(text.words),
        answer_map=answer_map,
        answer_tokens=tokens(text.answer_tokens, encoding)[0],
        answer_words=words(text.answer_words),
        reliability=reliability(info, question, text),
        finish_reason="length" if text.finish == "length" else None,
        language=text.language,
        sink_share=None if text.sink_share is None else number(text.sink_share, 4),
    )


def answer_response(
    info: model.ModelInfo,
    image_id: str,
    geometry: model.Geometry,
    questions: Sequence[str],
    output: model.Output,
    choice: wire.MapChoice,
) -> wire.AnswerResponse:
    """The body of ``POST /v1/answer``."""
    encoding: wire.MapEncoding = "u8" if choice == "u8" else "float"
    return wire.AnswerResponse(
        model=wire.ModelRef(id=info.id, revision=info.revision),
        image=image_ref(image_id, geometry),
        attention=attention(output.maps, geometry, encoding),
        results=[answer_result(info, q, t, encoding) for q, t in zip(questions, output.texts, strict=True)],
    )


def match_response(
    info: model.ModelInfo,
    image_id: str,
    geometry: model.Geometry,
    texts: Sequence[str],
    output: model.Output,
    choice: wire.MapChoice,
) -> wire.MatchResponse:
    """The body of ``POST /v1/match``."""
    encoding: wire.MapEncoding = "u8" if choice == "u8" else "float"
    results = [
        wire.MatchResult(
            text=text,
            score=number(found.ranking[0].score, 6),
            score_over=found.score_over,
            fit=None if found.fit is None else number(found.fit, 6),
            text_map=text_map,
            text_tokens=text_tokens,
            text_words=words(found.words),
        )
        for text, found in zip(texts, output.texts, strict=True)
        for text_tokens, text_map in [tokens(found.tokens, encoding, found.answer_map)]
    ]
    return wire.MatchResponse(
        model=wire.ModelRef(id=info.id, revision=info.revision),
        image=image_ref(image_id, geometry),
        attention=attention(output.maps, geometry, encoding),
        results=results,
    )


def caption_response(
    info: model.ModelInfo,
    image_id: str,
    geometry: model.Geometry,
    prompts: Sequence[str],
    output: model.Output,
    choice: wire.MapChoice,
) -> wire.CaptionResponse:
    """The body of ``POST /v1/caption``."""
    encoding: wire.MapEncoding = "u8" if choice == "u8" else "float"
    results = [
        wire.CaptionResult(
            prompt=prompt,
            caption=found.ranking[0].answer,
            score=number(found.ranking[0].score, 6),
            score_over=found.score_over,
            caption_map=caption_map,
            caption_tokens=caption_tokens,
            caption_words=words(found.answer_words),
        )
        for prompt, found in zip(prompts, output.texts, strict=True)
        for caption_tokens, caption_map in [tokens(found.answer_tokens, encoding, found.answer_map)]
    ]
    return wire.CaptionResponse(
        model=wire.ModelRef(id=info.id, revision=info.revision),
        image=image_ref(image_id, geometry),
        attention=attention(output.maps, geometry, encoding),
        results=results,
    )


def model_card(info: model.ModelInfo, limits: wire.ModelLimits, created: int) -> wire.ModelCard:
    """One entry of ``GET /v1/models``."""
    return wire.ModelCard(
        id=info.id,
        created=created,
        owned_by="crosslook",
        revision=info.revision,
        tasks=[task for task in info.tasks if task != "embed"],
        dimensions=info.dimensions,
        map_kinds=list(info.map_kinds),
        default_map_kind=info.default_map_kind,
        layers=list(info.layers),
        grid=wire.Grid(rows=info.rows, columns=info.columns),
        limits=limits,
        default_layers=None if info.default_layers is None else list(info.default_layers),
        heads=info.heads or None,
        reliability=[_band(band) for band in info.reliability] or None,
        generation=dict(info.generation_defaults) or None,
        languages=list(info.languages),
        answer_languages=list(info.answer_languages),
    )
