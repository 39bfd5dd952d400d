"""The maps that a request of the compact model gets where it leaves their kind or layers open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model.compact.model import CompactModel, tiny
from model.interface import Item, MapInfo, MapRequest
from tests.model.tools import QUESTIONS, ask, encode, near, noise, run, scores

KINDS: list[Any] = ["raw", "gradient", "rollout"]


def with_defaults(kind: Any, layers: tuple[int, ...] | None = None) -> CompactModel:
    made = tiny()
    made.net.config = replace(made.net.config, default_map_kind=kind, default_map_layers=layers)
    return CompactModel(made.net, made.vocabulary, made.answers, id="tiny", revision="x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [None, (1,)])
def test_a_request_gets_the_maps_that_the_configuration_names(kind: Any, layers: tuple[int, ...] | None) -> None:
    made = with_defaults(kind, layers)
    (image,) = encode(made, noise())
    (open_request, exact) = run(
        made,
        Item(image, QUESTIONS, maps=MapRequest()),
        Item(image, QUESTIONS, maps=MapRequest(kind, layers or (0, 1))),
    )
    assert (made.info.default_map_kind, made.info.default_layers) == (kind, layers)
    assert open_request.maps == MapInfo(kind, layers or (0, 1)) == exact.maps
    for one, other in zip(open_request.texts, exact.texts, strict=True):
        near(one, other, 3e-5)  # the rows of a batch round differently
    (every,) = run(made, Item(image, QUESTIONS, maps=MapRequest(layers=(0, 1))))
    assert every.maps == MapInfo(kind, (0, 1)), "a request still chooses for itself"


@pytest.mark.parametrize("kind", KINDS)
def test_no_default_costs_or_changes_anything_without_maps(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass, without maps, and the same scores to 1e-5 as with them."""
    made = with_defaults(kind)
    (image,) = encode(made, noise())
    with_maps = ask(made, image, *QUESTIONS, top_k=8, maps=MapRequest())
    passes: list[bool] = []
    fuse_states = made.net.fuse_states

    def counted(*args: Any, need_maps: bool = False, **options: Any) -> Any:
        passes.append(need_maps)
        return fuse_states(*args, need_maps=need_maps, **options)

    monkeypatch.setattr(made.net, "fuse_states", counted)
    without = ask(made, image, *QUESTIONS, top_k=8)
    assert passes == [False]
    for one, other in zip(with_maps, without, strict=True):
        assert one.ranking[0].answer == other.ranking[0].answer
        assert scores(one) == pytest.approx(scores(other), abs=1e-5)
