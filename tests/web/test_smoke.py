"""The shortest way through the page, which scripts/test walks; the rest of this folder is for scripts/test-long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.app.servers import Server
from tests.web.conftest import Watched
from tests.web.test_maps import hot_spot_is_right, values, word_map


def test_a_suggested_question_is_answered_in_a_spotlight(server: Server, opened: Callable[..., Watched]) -> None:
    """Then a word of it is pressed, and its map is shown in place of the answer's."""
    view = opened(server.url)
    page = view.page
    view.open_example()
    suggested = page.locator("#suggestions button").first
    question = suggested.inner_text()
    with page.expect_response("**/v1/answer") as caught:
        suggested.click()
    response = caught.value.json()
    page.wait_for_function("q => document.querySelector('#words').textContent === q", arg=question)
    result = response["results"][0]
    assert page.inner_text("#answer-line .answer") == result["answer"]
    assert page.input_value("#colours") == "spotlight"
    answer_map = values(result["answer_map"], response["attention"]["grid"])
    assert hot_spot_is_right(page, answer_map, response)
    maps = [word_map(response, index) for index in range(len(result["question_words"]))]
    farthest = int(np.argmax([np.abs(each / each.max() - answer_map / answer_map.max()).max() for each in maps]))
    page.click(f"[data-target=q{farthest}]")
    assert hot_spot_is_right(page, maps[farthest], response)
