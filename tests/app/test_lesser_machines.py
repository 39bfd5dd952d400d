"""A real server on machines that lack something: it says what it uses instead, and serves the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.app.servers import serving

CAT = Path(__file__).resolve().parents[2] / "examples" / "cat.jpg"


def answered(log: Path, loader: str) -> tuple[dict[str, Any], str]:
    """What a server with the loader answers, and its log."""
    with serving(log, loader=loader, model="tiny", threads=1) as server:
        with server.client() as client:
            form = {"question": "What color is the cat?", "maps": "float"}
            response = client.post("/v1/answer", files={"image": CAT.read_bytes()}, data=form)
        assert response.status_code == 200, response.text
        return response.json()["results"][0], log.read_text()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result, log = answered(tmp_path_factory.mktemp("usual") / "log", "model.registry:load_model")
    assert "goes through" not in log
    assert "go through" not in log
    return result


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ("without_runtime", "onnxruntime is not installed or cannot be loaded: all goes through PyTorch"),
        ("without_vnni", "VNNI, without which int8 is inexact: images go through float32"),
    ],
)
def test_what_is_lacking_is_said_and_the_answer_is_near(
    tmp_path: Path, usual: dict[str, Any], loader: str, said: str
) -> None:
    found, log = answered(tmp_path / "log", f"tests.app.lacking:{loader}")
    assert said in log
    assert len(found["question_tokens"]) == len(usual["question_tokens"])
    scores = [{one["answer"]: one["score"] for one in result["ranking"]} for result in (found, usual)]
    assert scores[0] == pytest.approx(scores[1], abs=0.2)  # random weights: int8 moves them more than trained ones
