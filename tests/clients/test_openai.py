"""The released `openai` and `langchain-openai`, unmodified: their clients with this server's URL as ``base_url``."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

from crosslook.types import AnswerResponse
from tests.clients.conftest import coloured


def shown(name: str) -> dict[str, Any]:
    """A part that holds an image of one colour."""
    return image_part(coloured(name))


def image_part(data: bytes) -> dict[str, Any]:
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": uri, "detail": "low"}}


def says(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, *messages: dict[str, Any], **options: Any) -> Any:
    return client.chat.completions.create(model="colours", messages=list(messages), **options)  # type: ignore[call-overload]


def test_a_question(client: openai.OpenAI) -> None:
    completion = ask(client, user(says("What colour is it?"), shown("red")), temperature=0.0, max_tokens=10, seed=1)
    choice = completion.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("red", "assistant", "stop")
    assert completion.model == "colours"
    assert completion.id.startswith("chatcmpl-req_")
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5 + 24, 1, 30)
    assert (usage.prompt_tokens_details.text_tokens, usage.prompt_tokens_details.image_tokens) == (5, 24)


def test_the_native_answer_is_in_an_extra_field(client: openai.OpenAI) -> None:
    completion = ask(client, user(shown("red"), says("Is it red?")))
    native = AnswerResponse.model_validate(completion.model_extra["crosslook"])
    assert native.attention is None
    assert native.results[0].score > 0.9
    extra = {"maps": "u8", "layers": [1], "top_k": 2, "candidates": ["blue", "red"]}
    completion = ask(client, user(shown("red"), says("Is it red?")), extra_body=extra)
    native = AnswerResponse.model_validate(completion.model_extra["crosslook"])
    assert native.attention is not None
    assert (native.attention.encoding, native.attention.layers) == ("u8", [1])
    assert [word.text for word in native.results[0].question_words] == ["Is", "it", "red"]
    assert native.results[0].score_over == "candidates"
    assert native.results[0].question == "Is it red?"


def test_a_known_image_counts_as_cached(client: openai.OpenAI) -> None:
    message = user(image_part(coloured("green", (33, 21))), says("What?"))
    cached = [ask(client, message).usage.prompt_tokens_details.cached_tokens for _ in range(2)]
    assert cached == [0, 24]


def test_streaming(client: openai.OpenAI) -> None:
    message = user(says("What colour is it?"), shown("blue"))
    chunks = list(ask(client, message, stream=True, stream_options={"include_usage": True}, extra_body={"maps": "u8"}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "blue"
    assert chunks[-1].usage.total_tokens == 30
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert AnswerResponse.model_validate(chunks[-2].model_extra["crosslook"]).attention is not None
    without = list(ask(client, message, stream=True))
    assert all(chunk.usage is None for chunk in without)
    assert len(without) == len(chunks) - 1


async def test_async(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        message: Any = user(says("What colour is it?"), shown("green"))
        completion = await client.chat.completions.create(model="colours", messages=[message])
        assert completion.choices[0].message.content == "green"
        stream = await client.chat.completions.create(model="colours", messages=[message], stream=True)
        assert "green" in [chunk.choices[0].delta.content async for chunk in stream]


def test_several_turns(client: openai.OpenAI) -> None:
    """The image stays that of the conversation until another stands beside the question."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, user(shown("red"), says("What colour?"))]
    turns.append({"role": "assistant", "content": ask(client, *turns).choices[0].message.content})
    turns.append({"role": "user", "content": "And is it really red?"})
    again = ask(client, *turns)
    assert again.choices[0].message.content == "red"
    assert again.model_extra["crosslook"]["results"][0]["question"] == "And is it really red?"
    turns.append(user(shown("red"), says("The same?")))  # the same image twice is one image
    assert ask(client, *turns).choices[0].message.content == "red"
    turns.append(user(shown("blue"), says("And this one?")))
    assert ask(client, *turns).choices[0].message.content == "blue"
    turns.append({"role": "user", "content": "Which of them?"})
    with pytest.raises(openai.UnprocessableEntityError, match="one image; there are 2"):
        ask(client, *turns)


def test_logprobs(client: openai.OpenAI) -> None:
    completion = ask(client, user(shown("red"), says("What?")), logprobs=True, top_logprobs=3)
    entry = completion.choices[0].logprobs.content[0]
    native = completion.model_extra["crosslook"]["results"][0]
    assert entry.token == "red"
    assert math.exp(entry.logprob) == pytest.approx(native["score"], rel=1e-5)
    assert [top.token for top in entry.top_logprobs] == [ranked["answer"] for ranked in native["ranking"][:3]]
    assert bytes(entry.bytes) == b"red"


def test_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["colours"]
    assert models[0].model_extra["tasks"] == ["answer", "caption", "match"]
    assert client.models.retrieve("colours").owned_by == "crosslook"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("messages", "options", "status", "code", "param"),
    [
        ([user(says("What?"))], {}, 422, "invalid_request", "messages"),
        ([user(shown("red"), shown("blue"), says("?"))], {}, 422, "invalid_request", "messages"),
        ([{"role": "assistant", "content": "hm"}], {}, 422, "invalid_request", "messages"),
        ([], {}, 422, "invalid_request", "messages"),
        ([user(says("?"), {"type": "input_audio"})], {}, 422, "invalid_request", "messages[0].content[1].type"),
        ([user(shown("red"), says("?"))], {"n": 2}, 422, "invalid_request", "n"),
        ([user(shown("red"), says("?"))], {"tools": [{"type": "function"}]}, 422, "invalid_request", "tools"),
        (
            [user(shown("red"), says("?"))],
            {"response_format": {"type": "json_object"}},
            422,
            "invalid_request",
            "response_format",
        ),
        ([user(shown("red"), says("?"))], {"extra_body": {"maps": "png"}}, 422, "invalid_request", "maps"),
        ([user(shown("red"), says("?"))], {"extra_body": {"maps": "u8", "layers": [9]}}, 422, "map_not_supported",
         "layers"),
        ([user(shown("red"), says(" "))], {}, 422, "question_empty", "messages[0].content"),
        ([user(shown("red")), user(says("xyzzy"))], {}, 422, "question_not_understood", "messages[1].content"),
        ([user(image_part(b"no"), says("?"))], {}, 415, "unsupported_image", "messages[0].content[0]"),
        ([user(says("?"), {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})], {}, 422,
         "url_not_allowed", "messages[0].content[1]"),
    ],
)  # fmt: skip
def test_errors(
    client: openai.OpenAI, messages: list[Any], options: dict[str, Any], status: int, code: str, param: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, *messages, **options)
    error = caught.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.request_id == error.body["request_id"]  # type: ignore[index, call-overload]


def test_none_is_as_if_it_were_not_there(client: openai.OpenAI) -> None:
    """What the library's own types let a caller set to None, it sends as null."""
    names = ("stream", "stream_options", "n", "logprobs", "top_logprobs", "temperature", "max_tokens", "seed", "stop")
    completion = ask(client, user(shown("red"), says("What?")), **dict.fromkeys(names))
    assert completion.choices[0].message.content == "red"
    extra = dict.fromkeys(("tools", "response_format", "map_kind", "layers", "candidates"))
    assert ask(client, user(shown("red"), says("What?")), extra_body=extra).choices[0].message.content == "red"


def test_errors_of_a_stream_have_their_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError):
        ask(client, user(shown("red"), says(" ")), stream=True)


def test_too_large(client: openai.OpenAI, big: bytes, huge: bytes) -> None:
    for data, code in ((big, "image_too_large"), (huge, "body_too_large")):
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, user(image_part(data), says("?")))
        assert (caught.value.status_code, caught.value.code) == (413, code)


def test_another_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt", messages=[user(shown("red"), says("?"))])  # type: ignore[list-item]
    assert caught.value.code == "model_not_found"


def test_refusals(guarded: str, key: str) -> None:
    expected: list[tuple[str, type[openai.APIStatusError]]] = [
        ("wrong", openai.AuthenticationError),
        (key, openai.InternalServerError),
        (key, openai.RateLimitError),
    ]
    for api_key, exception in expected:
        with (
            openai.OpenAI(base_url=f"{guarded}/v1", api_key=api_key, max_retries=0) as client,
            pytest.raises(exception) as caught,
        ):
            ask(client, user(shown("red"), says("?")))
        if exception is openai.InternalServerError:
            assert caught.value.status_code == 503
            assert caught.value.code == "overloaded"


def test_langchain(url: str) -> None:
    model = ChatOpenAI(base_url=f"{url}/v1", api_key="unused", model="colours", max_retries=0)
    question = HumanMessage(content=[says("What colour is it?"), shown("red")])
    answer = model.invoke([question])
    assert answer.content == "red"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 30
    follow_up = model.invoke([question, AIMessage("red"), HumanMessage("Really?")])
    assert follow_up.content == "red"
    assert "".join(str(chunk.content) for chunk in model.stream([question])) == "red"
    batch = model.batch([[HumanMessage(content=[says("?"), shown(name)])] for name in ("blue", "green")])
    assert [message.content for message in batch] == ["blue", "green"]
    with pytest.raises(openai.UnprocessableEntityError):
        model.invoke("No image here")


async def test_langchain_async(url: str) -> None:
    model = ChatOpenAI(base_url=f"{url}/v1", api_key="unused", model="colours")
    answer = await model.ainvoke([HumanMessage(content=[says("What colour is it?"), shown("red")])])
    assert answer.content == "red"


def test_langchain_refusals(guarded: str, key: str) -> None:
    for api_key, exception in (("wrong", openai.AuthenticationError), (key, openai.InternalServerError)):
        model = ChatOpenAI(base_url=f"{guarded}/v1", api_key=api_key, model="colours", max_retries=0)  # type: ignore[arg-type]
        with pytest.raises(exception):
            model.invoke([HumanMessage(content=[says("?"), shown("red")])])


def input_of(name: str) -> Any:
    uri = "data:image/png;base64," + base64.b64encode(coloured(name)).decode()
    parts = [{"type": "input_text", "text": "What colour is it?"}, {"type": "input_image", "image_url": uri}]
    return [{"role": "user", "content": parts}]


def test_responses(client: openai.OpenAI) -> None:
    response = client.responses.create(model="colours", input=input_of("red"), extra_body={"maps": "u8"})
    assert (response.output_text, response.status, response.id[:9]) == ("red", "completed", "resp_req_")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5 + 24, 1)
    assert response.model_extra is not None
    assert AnswerResponse.model_validate(response.model_extra["crosslook"]).attention is not None
    with pytest.raises(openai.UnprocessableEntityError, match="previous_response_id"):
        client.responses.create(model="colours", input=input_of("red"), previous_response_id=response.id)


def test_responses_streamed(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="colours", input=input_of("blue"), stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "blue"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "blue"
    with client.responses.stream(model="colours", input=input_of("green")) as stream:
        assert stream.get_final_response().output_text == "green"


def test_langchain_by_responses(url: str) -> None:
    model = ChatOpenAI(
        base_url=f"{url}/v1",
        api_key="unused",
        model="colours",
        max_retries=0,
        use_responses_api=True,  # type: ignore[arg-type]
    )
    question = HumanMessage(content=[says("What colour is it?"), shown("red")])
    assert model.invoke([question]).text == "red"
    assert "".join(chunk.text for chunk in model.stream([question])) == "red"
