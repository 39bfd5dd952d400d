"""A file of requests into a file of answers: in this process, by a server, broken off and gone on with."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import batch, cli
from app.settings import Settings
from tests.app.servers import serving
from tests.clients.conftest import coloured
from tests.fakes.reference_server import LOADER

SETTINGS = Settings(_env_file=None, workers=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three requests: a body alone with a path, OpenAI's form with base64, one that is refused."""
    (tmp_path / "red.png").write_bytes(coloured("red"))
    blue = base64.b64encode(coloured("blue")).decode()
    chat = [
        {"type": "text", "text": "Which?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{blue}"}},
    ]
    lines = [
        {"image": "red.png", "questions": ["Which?"], "maps": "none"},
        {
            "custom_id": "b",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "colours", "messages": [{"role": "user", "content": chat}]},
        },
        {"custom_id": "c", "url": "/v1/answer", "body": {"image": blue, "questions": [""]}},
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def answers(path: Path) -> dict[str, Any]:
    """Lines of an output by their ids."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found)
    return {line["custom_id"]: line for line in found}


def run(source: Path, target: Path, url: str | None = None) -> int:
    return batch.main(SETTINGS, batch.Arguments(source, target, url, 2), loader=LOADER)


def test_a_file_is_answered_and_not_asked_again(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.jsonl"
    assert run(source, target) == 1, "one is refused"
    found = answers(target)
    assert found["1"]["response"]["body"]["results"][0]["answer"] == "red"
    assert found["b"]["response"]["body"]["choices"][0]["message"]["content"] == "blue"
    assert found["b"]["response"]["request_id"].startswith("req_")
    assert found["c"]["response"]["status_code"] == 422
    assert found["c"]["response"]["body"]["error"]["code"] == "question_empty"
    assert "3 answered now, 0 before, 1 with errors, of 3" in capsys.readouterr().err
    before = target.read_bytes()
    monkeypatch.setattr(batch, "create_app", None)  # so the model is not even loaded
    assert run(source, target) == 0
    assert target.read_bytes() == before


def test_a_run_that_was_broken_off_goes_on(source: Path, tmp_path: Path) -> None:
    """Half a line is no answer, and neither is a refusal for want of room."""
    target = tmp_path / "out.jsonl"
    run(source, target)
    lines = {key: json.dumps(line) for key, line in answers(target).items()}
    full = json.dumps({"custom_id": "b", "response": {"status_code": 503, "body": {}}, "error": None})
    lost = json.dumps({"custom_id": "c", "response": None, "error": {"code": "ConnectError", "message": ""}})
    target.write_text(f"{lines['1']}\n{full}\n{lost}\n{lines['c'][:40]}")
    run(source, target)
    found = answers(target)
    assert json.dumps(found["1"]) == lines["1"], "kept, not asked again"
    assert found["b"]["response"]["status_code"] == 200
    assert found["c"]["response"]["status_code"] == 422


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "log", loader=LOADER) as found:
        yield found.url


def test_a_server_may_do_the_work(source: Path, tmp_path: Path, server: str) -> None:
    target = tmp_path / "out.jsonl"
    assert run(source, target, url=server) == 1
    assert answers(target)["1"]["response"]["body"]["results"][0]["answer"] == "red"
    assert 'route="/v1/chat/completions",status="200"' in httpx.get(f"{server}/metrics").text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "in.jsonl:1: no JSON"),
        ("[]", "in.jsonl:1: must be an object"),
        ('{"custom_id": 1}\n{"custom_id": "1"}', "in.jsonl:2: custom_id 1 comes twice"),
        ('{"url": "http://elsewhere", "body": {}}', "url must begin with /"),
        ('{"method": "GET", "url": "/v1/models", "body": {}}', "method must be POST"),
    ],
)
def test_input_that_cannot_be_used(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(text)
    assert cli.main(["batch", str(source), str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_output_is_left_alone(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("my notes\n")
    assert cli.main(["batch", str(source), str(target)]) == 2
    assert "no line of a batch's output" in capsys.readouterr().err
    assert target.read_text() == "my notes\n"
    assert cli.main(["batch", str(tmp_path / "none"), str(target)]) == 2
    assert cli.main(["batch", str(source), str(target), "--concurrency", "0"]) == 2


@pytest.mark.parametrize(("ray", "url", "said"), [(0, None, "at least 1"), (2, "http://127.0.0.1:1", "one of them")])
def test_arguments_that_make_no_sense(
    ray: int, url: str | None, said: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is read or asked."""
    arguments = batch.Arguments(source, source, url, 2, ray)
    assert batch.status_of(arguments, lambda: pytest.fail("ran")) == 2
    assert said in capsys.readouterr().err
