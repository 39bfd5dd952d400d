"""`curl` and Node's `fetch`: nothing between the user and the wire."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from crosslook.types import AnswerResponse, ErrorBody

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture
def folder(tmp_path: Path, red: bytes, big: bytes, huge: bytes) -> Path:
    for name, data in (("red.png", red), ("big.png", big), ("huge.png", huge), ("bad.png", b"no image")):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def curl(folder: Path, *arguments: str) -> tuple[int, str]:
    """The status and body of a response."""
    command = ["curl", "-sS", "--noproxy", "*", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@needs_curl
def test_curl_multipart(url: str, folder: Path) -> None:
    fields = ["-F", "image=@red.png", "-F", "question=What colour?", "-F", "question=Which?", "-F", "top_k=1"]
    status, body = curl(folder, f"{url}/v1/answer", *fields, "-F", "candidates=blue", "-F", "candidates=red")
    assert status == 200
    response = AnswerResponse.model_validate_json(body)
    assert [result.answer for result in response.results] == ["red", "red"]
    assert [result.score_over for result in response.results] == ["candidates"] * 2
    again = ["-F", f"image_id={response.image.id}", "-F", "question=What colour?", "-F", "maps=none"]
    status, body = curl(folder, f"{url}/v1/answer", *again)
    assert status == 200
    assert AnswerResponse.model_validate_json(body).image == response.image


@needs_curl
def test_curl_with_a_large_body_and_expect_continue(url: str, folder: Path) -> None:
    """curl asks before it sends more than 1 MB, and must not be left waiting when the answer is no."""
    (folder / "larger.png").write_bytes(bytes(3_000_000))
    status, body = curl(folder, f"{url}/v1/answer", "-F", "image=@larger.png", "-F", "question=What?")
    assert (status, ErrorBody.model_validate_json(body).error.code) == (413, "body_too_large")


@needs_curl
@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (["-F", "image=@bad.png", "-F", "question=a?"], 415, "unsupported_image"),
        (["-F", "image=@big.png", "-F", "question=a?"], 413, "image_too_large"),
        (["-F", "image=@huge.png", "-F", "question=a?"], 413, "body_too_large"),
        (["-F", "image=@red.png", "-F", "question= "], 422, "question_empty"),
        (["-F", "image=@red.png"], 422, "invalid_request"),
        (["-F", "question=a?"], 422, "invalid_request"),
        (["-F", "image=@red.png", "-F", "question=a?", "-F", "topk=3"], 422, "invalid_request"),
        (["-d", "{", "-H", "Content-Type: application/json"], 400, "malformed_request"),
        (["-d", "image=red.png"], 415, "unsupported_media_type"),
        (["-X", "DELETE"], 405, "method_not_allowed"),
    ],
)
def test_curl_errors(url: str, folder: Path, fields: list[str], status: int, code: str) -> None:
    found, body = curl(folder, f"{url}/v1/answer", *fields)
    assert (found, ErrorBody.model_validate_json(body).error.code) == (status, code)


@needs_curl
def test_curl_refusals(guarded: str, key: str, folder: Path) -> None:
    fields = ["-F", "image=@red.png", "-F", "question=a?"]
    assert curl(folder, f"{guarded}/v1/answer", *fields)[0] == 401
    headers = folder / "headers"
    for status in (503, 429):
        found, _ = curl(folder, f"{guarded}/v1/answer", *fields, "-H", f"Authorization: Bearer {key}", "-D", "headers")
        assert found == status
        assert "retry-after:" in headers.read_text().lower()


SCRIPT = """
import { readFile } from 'node:fs/promises';
const [url, file, question, key] = process.argv.slice(2);
const form = new FormData();
form.append('image', new Blob([await readFile(file)]), 'image.png');
form.append('question', question);
form.append('maps', 'u8');
const headers = key ? { Authorization: `Bearer ${key}` } : {};
const response = await fetch(`${url}/v1/answer`, { method: 'POST', body: form, headers });
const body = await response.json();
if (response.ok) {
  const { data, scale } = body.results[0].answer_map;
  body.cells = Array.from(Buffer.from(data, 'base64'), (byte) => byte * scale);
}
console.log(JSON.stringify({ status: response.status, wait: response.headers.get('retry-after'), body }));
"""


def node(folder: Path, *arguments: str) -> Any:
    (folder / "ask.mjs").write_text(SCRIPT)
    done = subprocess.run(["node", "ask.mjs", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_node
def test_fetch(url: str, folder: Path) -> None:
    found = node(folder, url, "red.png", "What colour?")
    assert found["status"] == 200
    body = found["body"]
    assert body["results"][0]["answer"] == "red"
    grid = body["attention"]["grid"]
    assert len(body["cells"]) == grid["rows"] * grid["columns"]
    assert sum(body["cells"]) + body["results"][0]["answer_map"]["elsewhere"] == pytest.approx(1.0, abs=0.02)


@needs_node
def test_fetch_errors(url: str, guarded: str, key: str, folder: Path) -> None:
    for file, question, status, code in (
        ("bad.png", "a?", 415, "unsupported_image"),
        ("big.png", "a?", 413, "image_too_large"),
        ("red.png", "xyzzy", 422, "question_not_understood"),
    ):
        found = node(folder, url, file, question)
        assert (found["status"], found["body"]["error"]["code"]) == (status, code)
    codes = [node(folder, guarded, "red.png", "a?", given)["body"]["error"]["code"] for given in ("wrong", key, key)]
    assert codes == ["invalid_api_key", "overloaded", "rate_limited"]
