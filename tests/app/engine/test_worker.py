"""What a worker does with its model before it serves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from app.engine.worker import settle, warm_up
from model.interface import Item, ItemError, Output, Ranked
from tests.fakes import model as standin


@pytest.mark.parametrize(("score", "brightness"), [(math.nan, 1.0), (math.inf, 1.0), (0.5, math.nan)])
def test_a_model_that_gives_no_numbers_does_not_serve(score: float, brightness: float) -> None:
    """Scores and maps are looked at before the first request."""

    class Damaged(standin.StandIn):
        def _one(self, item: Item, together: int) -> Output | ItemError:
            assert isinstance(item.image, standin.Encoded)
            item.image.brightness = item.image.brightness * brightness
            output = super()._one(item, together)
            assert isinstance(output, Output)
            text = replace(output.texts[0], ranking=(Ranked("yes", score),))
            return replace(output, texts=(text,))

    warm_up(standin.StandIn())
    with pytest.raises(ValueError, match="no finite numbers"):
        warm_up(Damaged())


def test_a_model_lets_go_of_what_does_not_serve() -> None:
    class Large(standin.StandIn):
        kept = False

        def keep_what_serves(self) -> None:
            self.kept = True

    model = Large()
    settle(model)
    assert model.kept
    settle(standin.StandIn())  # one that has nothing to let go of
