"""How a conversation is read: the same for both of OpenAI's routes, sent by hand as other people's clients do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app.conversation.options import ConversationRequest
from tests.app.test_native import failed

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def says(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def shows(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


AGAIN = {"role": "user", "content": "And now?"}


async def ask(client: httpx.AsyncClient, messages: list[Any], path: str = CHAT, **options: Any) -> httpx.Response:
    return await client.post(path, json={("input" if path == RESPONSES else "messages"): messages, **options})


def question_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["crosslook"]["results"][0]["question"])


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "red"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
        {"role": "tool", "content": "12", "tool_call_id": "a"},
        {"role": "assistant", "content": 5},
        {"role": "assistant"},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "a"},
        {"type": "reasoning", "summary": []},
    ],
)
async def test_what_others_said_is_not_read(client: httpx.AsyncClient, uri: str, said: Any, path: str) -> None:
    assert question_of(await ask(client, [user(says("First?"), shows(uri)), said, AGAIN], path)) == "And now?"


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "input_file", "file_id": "f"},
        {"type": "image_url", "image_url": None},
        {"type": "image_url"},
        {"type": "text", "text": 5},
        {},
        None,
    ],
)
async def test_only_the_last_turn_is_held_to_rules(client: httpx.AsyncClient, uri: str, part: Any, path: str) -> None:
    answered = {"role": "assistant", "content": "hm"}
    assert question_of(await ask(client, [user(part), answered, user(says("Now?"), shows(uri))], path)) == "Now?"
    assert question_of(await ask(client, [user(part, shows(uri)), answered, user(says("Now?"))], path)) == "Now?"
    assert question_of(await ask(client, [user(part), user(says("Now?"), shows(uri))], path)) == "Now?"
    field = "input" if path == RESPONSES else "messages"
    response = await ask(client, [answered, user(says("Now?"), shows(uri), part)], path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "invalid_request")
    assert error["param"].startswith(f"{field}[1].content[2]")


@pytest.mark.parametrize(
    "messages",
    [
        lambda uri: [user(says("What?"), {"type": "image_url", "image_url": uri})],
        lambda uri: [user(says("What?"), {"type": "input_image", "image_url": uri, "detail": "auto"})],
        lambda uri: [user({"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": {"url": uri}})],
        lambda uri: [user("What?", shows(uri))],
        lambda uri: [user(says("What?")), user(shows(uri))],
        lambda uri: [user(shows(uri)), user(says("What?"))],
        lambda uri: [user(says("What?")), {"role": "system", "content": "Be brief."}, user(shows(uri))],
        lambda uri: [user(shows(uri)), {"role": "user", "content": "What?"}, {"role": "assistant", "content": "It is"}],
        lambda uri: [user(says("")), user(shows(uri), says("What?")), user(says(" "))],
        lambda uri: [
            user(shows(uri + "AAAA"), says("1?")),
            {"role": "assistant"},
            user(says("What?")),
            user(shows(uri)),
        ],
    ],
)
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_question_and_its_image(client: httpx.AsyncClient, uri: str, messages: Any, path: str) -> None:
    """As parts of one message, or as the messages of one turn."""
    response = await ask(client, messages(uri), path)
    assert question_of(response) == "What?"
    alone = await ask(client, [user(says("What?"), shows(uri))])
    assert response.json()["crosslook"] == alone.json()["crosslook"]


async def test_one_image_in_two_spellings(client: httpx.AsyncClient, uri: str) -> None:
    data = uri.partition(",")[2]
    spellings = [f"data:;base64,{data}", f"data:image/png; base64,{data.rstrip('=')}", data, f" {uri}\n"]
    turns = [part for url in (uri, *spellings) for part in (user(says("?"), shows(url)), {"role": "assistant"})]
    assert question_of(await ask(client, [*turns, AGAIN])) == "And now?"
    other = user(says("?"), shows("data:;base64,AAAA"))
    response = await ask(client, [*turns, other, {"role": "assistant"}, AGAIN])
    assert failed(response, "invalid_request", "messages").error.detail == {"images": 2}
    two = [user(says("?"), shows(uri), shows("data:;base64,AAAA"))]
    assert failed(await ask(client, two), "invalid_request", "messages").error.detail == {"images": 2}
    assert question_of(await ask(client, [user(says("?"), shows(uri), shows(spellings[0]))])) == "?"


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_nothing_to_answer(client: httpx.AsyncClient, uri: str, path: str) -> None:
    field = "input" if path == RESPONSES else "messages"
    failed(await ask(client, [{"role": "assistant", "content": "hm"}], path), "invalid_request", field)
    failed(await ask(client, [AGAIN], path), "invalid_request", field)
    failed(await ask(client, [], path), "invalid_request", field)
    failed(await ask(client, [5], path), "invalid_request", f"{field}[0]")
    failed(await ask(client, [{"role": "user", "content": 5}], path), "invalid_request", f"{field}[0].content")
    failed(await ask(client, [user(shows(uri))], path), "question_empty", f"{field}[0].content")
    earlier = [user(says("What?"), shows(uri)), {"role": "assistant", "content": "hm"}]
    failed(await ask(client, [*earlier, user(shows(uri))], path), "question_empty", f"{field}[2].content")


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_tools_that_are_not_to_be_called(client: httpx.AsyncClient, uri: str, path: str) -> None:
    messages = [user(says("What?"), shows(uri))]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for options in ({"tools": tools, "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}):
        assert question_of(await ask(client, messages, path, **options)) == "What?"
    for choice in (None, "auto", "required", {"type": "function", "function": {"name": "f"}}):
        failed(await ask(client, messages, path, tools=tools, tool_choice=choice), "invalid_request", "tools")


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_top_k_of_other_servers(client: httpx.AsyncClient, uri: str, path: str) -> None:
    messages = [user(says("What?"), shows(uri))]

    for given in (-1, 0, 64, 1000, None, 0.5):
        assert question_of(await ask(client, messages, path, top_k=given)) == "What?"
        assert ConversationRequest.model_validate({"top_k": given}).top_k == ConversationRequest().top_k == 5
    assert [ConversationRequest.model_validate({"top_k": given}).top_k for given in (1, 7, 50)] == [1, 7, 50]
    assert len((await ask(client, messages, path, top_k=1)).json()["crosslook"]["results"][0]["ranking"]) == 1
    failed(await ask(client, messages, path, top_k="some"), "invalid_request", "top_k")


async def test_the_response_and_its_events(client: httpx.AsyncClient, uri: str) -> None:
    messages = [user(says("What?"), shows(uri))]
    body = (await ask(client, messages, RESPONSES, maps="u8", instructions="Be brief.")).json()
    assert (body["object"], body["status"], body["instructions"]) == ("response", "completed", "Be brief.")
    answer = body["crosslook"]["results"][0]["answer"]
    assert body["output"][0]["content"] == [
        {"type": "output_text", "text": answer, "annotations": [], "logprobs": []},
    ]
    assert body["crosslook"]["attention"]["encoding"] == "u8"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    response = await ask(client, messages, RESPONSES, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    kinds = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    assert (kinds[0], kinds[4], kinds[-1]) == ("response.created", "response.output_text.delta", "response.completed")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"input": "What is this?"}, "input"),
        ({"input": [user({"type": "input_text", "text": "?"}, {"type": "input_image", "file_id": "f"})]},
         "input[0].content[1].file_id"),
    ],
)  # fmt: skip
async def test_what_a_response_cannot_have(
    client: httpx.AsyncClient, uri: str, options: dict[str, Any], param: str
) -> None:
    body = {"input": [user(says("What?"), shows(uri))], **options}
    failed(await client.post(RESPONSES, json=body), "invalid_request", param)
    harmless = {
        "store": True,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "reasoning": {},
        "metadata": {},
    }
    body = {"input": [user(says("What?"), shows(uri))], **harmless, "previous_response_id": None}
    assert question_of(await client.post(RESPONSES, json=body)) == "What?"


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_the_language_of_the_answer(client: httpx.AsyncClient, uri: str, path: str) -> None:
    """This model has English alone; another language is refused, not ignored."""
    asked = [user(says("What color is it?"), shows(uri))]
    assert question_of(await ask(client, asked, path, language="en")) == "What color is it?"
    body = failed(await ask(client, asked, path, language="zh"), "invalid_request", "language")
    assert body.error.detail == {"languages": ["en"]}


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_parts_are_bounded(client: httpx.AsyncClient, uri: str, path: str) -> None:
    """In a message and in all of them, whether they are read or not."""
    field, last = ("input" if path == RESPONSES else "messages"), user(says("And now?"), shows(uri))
    for said in ([user(*[0] * 1001)], [user(*[0] * 1000)] * 10, [{"role": "assistant", "content": [0] * 1001}]):
        failed(await ask(client, [*said, last], path), "invalid_request", field)
    assert question_of(await ask(client, [*[user(*[0] * 1000)] * 9, AGAIN, last], path)) == "And now?"
