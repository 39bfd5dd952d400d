"""The client without its sockets: the steps of each call, one by one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from crosslook import errors
from crosslook.core import Core, Operation, Read, Response, Send, Wait
from crosslook.images import ImageSource, read_image
from crosslook.retry import RetryPolicy
from crosslook.types import ImageRef
from tests.crosslook.conftest import golden

IMAGE = b"image bytes"
BY_VALUE = base64.b64encode(IMAGE).decode()
PATIENT = RetryPolicy(retries=2, first=3.0, jitter=0.0)


def answered(name: str = "answer_one", **headers: str) -> Response:
    return Response(200, {"content-type": "application/json", **headers}, json.dumps(golden(name)).encode())


def failure(code: str, **headers: str) -> Response:
    case = golden("errors")[code]
    return Response(case["status"], headers, json.dumps(case["body"]).encode())


def drive(operation: Operation[Any], *came: Response | Exception) -> tuple[Any, list[Send | Wait]]:
    """Carry out the steps, with ``came`` for what the server sends: the result or what was raised, and the steps."""
    steps: list[Send | Wait] = []
    coming = list(came)
    given: Response | ImageSource | Exception | None = None
    try:
        while True:
            step = operation.throw(given) if isinstance(given, Exception) else operation.send(given)
            if isinstance(step, Read):
                given = read_image(step.image)
                continue
            steps.append(step)
            given = coming.pop(0) if isinstance(step, Send) else None
    except StopIteration as end:
        assert not coming
        return end.value, steps
    except errors.CrosslookError as error:
        assert not coming
        return error, steps


def sent(step: Send | Wait) -> dict[str, Any]:
    assert isinstance(step, Send)
    body: dict[str, Any] = json.loads(step.body or b"")
    return body


def test_an_image_is_read_before_anything_is_sent() -> None:
    """By whoever carries out the steps: the disk may be slow."""
    operation = Core().answer("no-such-file.jpg", "a?", {})
    assert next(operation) == Read("no-such-file.jpg")
    with pytest.raises(FileNotFoundError):
        operation.throw(FileNotFoundError())


def test_an_id_is_learnt_used_forgotten_and_learnt_again() -> None:
    core = Core()
    image_id = golden("answer_one")["image"]["id"]
    _, steps = drive(core.answer(IMAGE, "a?", {}), answered())
    assert [sent(step) for step in steps] == [{"questions": ["a?"], "image": BY_VALUE}]
    for _ in range(2):
        answers, steps = drive(core.answer(IMAGE, "b?", {}), failure("image_not_found"), answered())
        assert [sent(step) for step in steps] == [
            {"questions": ["b?"], "image_id": image_id},
            {"questions": ["b?"], "image": BY_VALUE},
        ]
        assert answers[0].image.id == image_id


def test_only_an_image_that_is_not_found_is_sent_again() -> None:
    """Once, and not for what else can be wrong with a request by id."""
    core = Core(retry=RetryPolicy(retries=0))
    drive(core.answer(IMAGE, "a?", {}), answered())
    error, steps = drive(core.answer(IMAGE, "b?", {}), failure("question_empty"))
    assert (type(error), len(steps)) == (errors.QuestionEmpty, 1)
    error, steps = drive(core.answer(IMAGE, "b?", {}), failure("image_not_found"), failure("image_not_found"))
    assert (type(error), len(steps)) == (errors.ImageNotFound, 2)
    _, steps = drive(core.answer(IMAGE, "b?", {}), answered())
    assert "image" in sent(steps[0]), "the id was forgotten"


def test_what_is_asked_about_an_image_has_one_session() -> None:
    """By value and by id, whatever is asked; clients with one key agree on it, clients without a key do not."""
    core, image_id = Core(api_key="k"), golden("answer_one")["image"]["id"]
    reference = ImageRef(id=image_id, width=1, height=1)
    came = [drive(core.answer(IMAGE, "a?", {}), answered())]
    came += [drive(core.answer(IMAGE, "b?", {}), failure("image_not_found"), answered())]
    came += [drive(core.answer(reference, "c?", {}), answered()), drive(core.upload(IMAGE), answered("upload"))]
    came += [drive(Core(api_key="k").match(IMAGE, ["a", "b"], {}), answered("match"))]
    sessions = {step.headers["x-session-id"] for _, steps in came for step in steps if isinstance(step, Send)}
    assert len(sessions) == 1
    for other in (Core(), Core(), Core(api_key="l")):
        _, steps = drive(other.answer(IMAGE, "a?", {}), answered())
        assert isinstance(steps[0], Send)
        sessions.add(steps[0].headers["x-session-id"])
    assert len(sessions) == 4


def test_two_servers_do_not_share_their_ids() -> None:
    drive(Core().answer(IMAGE, "a?", {}), answered())
    _, steps = drive(Core().answer(IMAGE, "a?", {}), answered())
    assert "image" in sent(steps[0])


@pytest.mark.parametrize("failed", [errors.ConnectionFailed("cut"), failure("overloaded"), Response(502, {}, b"")])
def test_the_waits_between_tries(failed: Response | Exception) -> None:
    """The policy's, and the same request each time; after the last try there is none."""
    answers, steps = drive(Core(retry=PATIENT).answer(IMAGE, "a?", {}), failed, failed, answered())
    assert answers[0].question == golden("answer_one")["results"][0]["question"]
    assert steps == [steps[0], Wait(3.0), steps[0], Wait(6.0), steps[0]]
    error, steps = drive(Core(retry=PATIENT).answer(IMAGE, "a?", {}), failed, failed, failed)
    assert isinstance(error, errors.CrosslookError)
    assert len(steps) == 5


def test_a_server_that_says_when_is_asked_then() -> None:
    _, steps = drive(Core(retry=PATIENT).models(), failure("overloaded", **{"retry-after": "7"}), answered("models"))
    assert steps[1] == Wait(7.0)
    error, steps = drive(Core(retry=PATIENT).models(), failure("overloaded", **{"retry-after": "61"}))
    assert isinstance(error, errors.Overloaded)
    assert (error.retry_after, len(steps)) == (61.0, 1)


def test_each_request_of_a_call_has_its_own_tries() -> None:
    """The one by value has as many as the one by id, however often that was tried."""
    core = Core(retry=PATIENT)
    drive(core.answer(IMAGE, "a?", {}), answered())
    busy = failure("overloaded")
    came = (busy, busy, failure("image_not_found"), busy, busy, answered())
    answers, steps = drive(core.answer(IMAGE, "b?", {}), *came)
    assert len(answers) == 1
    assert [step.seconds for step in steps if isinstance(step, Wait)] == [3.0, 6.0, 3.0, 6.0]


@pytest.mark.parametrize(
    "ask",
    [
        lambda core: core.answer(ImageRef(id="img_1", width=1, height=1), "a?", {}),
        lambda core: core.upload(IMAGE),
        lambda core: core.models(),
        lambda core: core.health(),
    ],
)
def test_the_key_and_the_time_go_with_every_request(ask: Callable[[Core], Operation[Any]]) -> None:
    """And the type of the body with those that have one; the body itself does not show in the text of a step."""
    operation = ask(Core(api_key=" secret\n", timeout=2.5))
    step = next(operation)
    while isinstance(step, Read):
        step = operation.send(read_image(step.image))
    assert isinstance(step, Send)
    expected = {"accept": "application/json", "authorization": "Bearer secret", "x-request-timeout": "2.5"}
    headers = {name: value for name, value in step.headers.items() if name != "x-session-id"}
    assert headers == expected | ({} if step.body is None else {"content-type": "application/json"})
    assert BY_VALUE not in repr(step)


def test_an_upload_teaches_its_id_and_an_id_needs_none() -> None:
    core = Core()
    ref, steps = drive(core.upload(IMAGE), answered("upload"))
    assert sent(steps[0]) == {"image": BY_VALUE}
    assert drive(core.upload(ref)) == (ref, [])
    _, steps = drive(core.answer(IMAGE, "a?", {}), answered())
    assert sent(steps[0])["image_id"] == ref.id


@pytest.mark.parametrize("status", [200, 503])
def test_health_is_asked_once(status: int) -> None:
    """Whatever it says; a failed connection is an answer too."""
    health, steps = drive(Core(retry=PATIENT).health(), Response(status, {}, b'{"status": "s"}'))
    assert (health.ready, health.detail, len(steps)) == (status == 200, {"status": "s"}, 1)
    error, steps = drive(Core(retry=PATIENT).health(), errors.ConnectionFailed("refused"))
    assert (type(error), len(steps)) == (errors.ConnectionFailed, 1)
    error, _ = drive(Core().health(), Response(status, {}, b"[]"))
    assert isinstance(error, errors.BadResponse if status == 200 else errors.Unavailable)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON ;x=y"])
def test_json_is_known_by_its_type_without_parameters(content_type: str) -> None:
    answers, _ = drive(Core().answer(IMAGE, "a?", {}), answered(**{"content-type": content_type, "x-request-id": "r1"}))
    assert answers[0].request_id == "r1"


def test_a_response_of_another_shape_is_said_to_be_one() -> None:
    """Where it differs; its id is not learnt."""
    core = Core()
    body = golden("answer_one")
    body["results"][0]["score"] = "high"
    wrong = Response(200, {"content-type": "application/json"}, json.dumps(body).encode())
    error, _ = drive(core.answer(IMAGE, "a?", {}), wrong)
    assert isinstance(error, errors.BadResponse)
    assert str(error).startswith("the response is no AnswerResponse: results.0.score: ")
    error, steps = drive(core.answer(IMAGE, "a?", {}), Response(200, {"content-type": "text/html"}, b"<html>"))
    assert isinstance(error, errors.BadResponse)
    assert "text/html, not JSON" in str(error)
    assert "image" in sent(steps[0])
