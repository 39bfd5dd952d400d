"""Doubt, as the page shows it: by the model's own figures, in the words and by the rule of the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crosslook.results import read_answers
from crosslook.types import AnswerResponse
from model.compact.model import load, tiny
from model.interface import ReliabilityBand
from model.question_kinds import question_form, question_kind
from model.reliability import ReliabilityTable
from tests.app.servers import Server, serving
from tests.crosslook.conftest import golden
from tests.web.conftest import Watched

pytestmark = pytest.mark.long
Visit = Callable[..., Watched]

BANDS = (
    ReliabilityBand("yes/no", 0.0, 1.0, 40, 0.9),
    ReliabilityBand("count", 0.0, 1.0, 30, 0.2),
    ReliabilityBand("other", 0.0, 1.0, 50, 0.25),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model has a table of what its scores are worth."""
    folder = tmp_path_factory.mktemp("measured")
    tiny().save(folder / "model")
    ReliabilityTable(load(folder / "model").info.revision, "dev", 9, 120, BANDS).save(folder / "model")
    with serving(folder / "log", loader=None, model=folder / "model", threads=1) as running:
        yield running


def test_doubt_is_shown_by_the_models_own_figures(measured: Server, opened: Visit) -> None:
    view = opened(measured.url)
    page = view.page
    view.open_example()
    sure = view.ask("Is it a cat?")["results"][0]
    assert sure["reliability"] == {"kind": "yes/no", "right": 0.9, "count": 40}
    assert "90%" in page.inner_text("#measured")
    close = [row for row in sure["ranking"][1:] if row["score"] >= 0.75 * sure["score"]]
    assert page.is_visible(".unsure") is bool(close)
    unsure = view.ask("How many cats are there?")["results"][0]
    assert page.inner_text(".unsure") == "Not sure"
    best, other = unsure["ranking"][:2]
    worth = other["score"] >= min(0.05, 0.25 * best["score"])
    assert (f"“{other['answer']}”" in page.inner_text("#answer-line")) is worth
    assert "20%" in page.inner_text("#measured")
    told = page.inner_text("#history [aria-current=true] strong")
    assert told.startswith(f"Not sure: {unsure['answer']}")
    view.ask("What is it?")
    assert page.is_visible(".unsure")


def test_the_page_doubts_as_the_client_does(server: Server, opened: Visit) -> None:
    body = golden("answer_one")
    (result,) = body["results"]
    cases = [
        result | {"score_over": over, "reliability": {"kind": kind, "right": right, "count": 40}}
        | {"ranking": [{"answer": "a", "score": 0.4}, {"answer": "b", "score": other}]}
        for over in ("vocabulary", "sequence") for kind in ("yes/no", "other") for right in (0.4, 0.55, 0.6)
        for other in (0.1, 0.3)
    ]  # fmt: skip
    answers = read_answers(AnswerResponse.model_validate(body | {"results": cases}), None)
    code = 'async cases => { const { doubt } = await import("/web/doubt.js"); return cases.map((c) => doubt(c)); }'
    told = [each["unsure"] for each in opened(server.url).page.evaluate(code, cases)]
    assert told == [answer.unsure for answer in answers]
    assert set(told) == {True, False}
    code = 'async c => (await import("/web/doubt.js")).doubt(c).instead'
    ranking = [{"answer": "yes", "score": 0.6}, {"answer": "no", "score": 0.2}, {"answer": "1", "score": 0.02}]
    case = result | {"reliability": {"kind": "yes/no", "right": 0.5, "count": 40}, "ranking": ranking}
    assert opened(server.url).page.evaluate(code, case) == ["no"]
    little = case | {"ranking": [{"answer": "blue", "score": 0.89}, {"answer": "white", "score": 0.018}]}
    assert opened(server.url).page.evaluate(code, little) == []
    either = case | {"question": "Is it no or maybe?", "ranking": [*ranking[:1], {"answer": "1", "score": 0.5}]}
    assert opened(server.url).page.evaluate(code, either) == []


def test_where_no_text_was_found_no_score_is_shown(server: Server, opened: Visit) -> None:
    def answer(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        result = body["results"][0]
        result |= {"answer": "no text found", "score": 0.04, "score_over": "text", "rest": 0.96}
        result["ranking"] = [{"answer": "no text found", "score": 0.04}]
        result["answer_map"] |= {"scale": 0.0, "elsewhere": 1.0}
        route.fulfill(response=response, json=body)

    view = opened(server.url)
    view.page.route("**/v1/answer", answer)
    view.open_example()
    view.ask("What does the sign say?")
    assert view.page.inner_text("#answer-line") == "no text found"
    assert view.page.is_hidden("#ranking")
    assert view.page.inner_text("#where") == "This was read from no place in the image."
    assert view.page.is_hidden("#legend")


def test_what_it_is_bad_at_is_said_while_it_is_typed(measured: Server, opened: Visit) -> None:
    view = opened(measured.url)
    page = view.page
    view.open_example()
    for question, weak in (("How many cats are there?", True), ("Is it a cat?", False), ("What is it?", False)):
        page.fill("#question", question)
        assert page.is_visible("#caution") is weak
    page.fill("#question", "how  many eyes?")
    assert "20% of all its answers to questions that count" in page.inner_text("#caution")
    assert page.inner_text("#languages") == "It reads questions in English."
    names = 'async () => (await import("/web/i18n.js")).languageNames(["en", "zh"])'
    assert page.evaluate(names) == "English and Chinese"


def test_without_figures_nothing_is_claimed(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example()
    view.ask("How many cats are there?")
    assert view.page.is_hidden("#caution")
    assert view.page.is_hidden("#measured")


def test_the_page_tells_kinds_as_the_model_does(server: Server, opened: Visit) -> None:
    questions = [
        "Is it red?", "Is it red or blue?", "How many  dogs?", "What color is the car?", "What does the sign say?",
        "有几只猫？", "是猫还是狗？", "有猫吗？", "牌子上写着什么？",
        "Can you tell me what color it is?", "Do you see the man who runs?",
        "能告诉我有几个人吗？", "盘子几乎空了吗？",
        "What is this?", "  Are there cats? ", "Can you see a hot dog in the picture?", "有没有公交车？", "有教堂吗？",
        "DOES it rain?", "What is the number of the bus?", "isn't it nice", "",
    ]  # fmt: skip
    code = """async questions => {
      const doubt = await import("/web/doubt.js");
      await doubt.loadKinds();
      return questions.map((text) => [doubt.questionKind(text), doubt.questionForm(text) ?? null]);
    }"""
    told = opened(server.url).page.evaluate(code, questions)
    assert told == [[question_kind(text), question_form(text)] for text in questions]
    assert "is there" in {form for _, form in told}
