from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crosslook.cli import main
from tests.crosslook.conftest import golden


class Handler(BaseHTTPRequestHandler):
    """Answers from the golden files; keeps what it was asked."""

    asked: list[dict[str, Any]]
    failure: str | None

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(asked)
        body, status = golden("answer_one"), 200
        body["results"] = [body["results"][0] | {"question": question} for question in asked["questions"]]
        if asked.get("candidates"):
            body = golden("answer_candidates" if "a sleeping cat" in asked["candidates"] else "answer_several")
        if asked["questions"] == ["这是什么动物？"]:
            body = golden("answer_chinese")
        elif asked["questions"] == ["这是kitty-cat吗？"]:
            body["results"][0]["language"] = "zh"
        if asked["questions"] == ["nearly?"]:
            body["results"][0]["ranking"] = [{"answer": "yes", "score": 0.4}, {"answer": "no", "score": 0.39}]
        if asked["questions"][0] in ("boat?", "有船吗？"):
            result = body["results"][0]
            result["language"] = "en" if asked["questions"] == ["boat?"] else "zh"
            off = {"values": [[0.0, 0.02, 0.0], [0.0, 0.07, 0.0]], "elsewhere": 0.91}
            result["answer_map"] = result["question_tokens"][result["question_words"][0]["tokens"][0]]["map"] = off
        if asked["questions"] == ["sign?"]:
            nowhere = {"values": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "elsewhere": 1.0}
            seldom = {"kind": "reading", "right": 0.2, "count": 25}
            body["results"][0] |= {"answer": "no text found", "score_over": "text", "answer_map": nowhere}
            body["results"][0] |= {"ranking": [{"answer": "no text found", "score": 0.04}], "reliability": seldom}
        if body["attention"]:
            body["attention"]["kind"] = asked.get("map_kind", "raw")
        if type(self).failure:
            case = golden("errors")[type(self).failure]
            body, status = case["body"], case["status"]
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked, Handler.failure = [], None
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (451, 300), "grey").save(path)
    return path


def test_ask_prints_answers_and_where_each_word_looked(
    server: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(image), "Is this a kitty-cat?", "--url", server, "--top-k", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Is this a kitty-cat?",
        "  yes  83.0%",
        "  then: no 10.0%, all others 7.0%",
        "  looked most at (pixels from the upper left, strength of that cell):",
        "    Is            226     37  30.0%",
        "    this          226    263  50.0%",
        "    a             376     37  60.0%",
        "    kitty-cat     226    263  28.7%",
    ]
    assert Handler.asked[0]["top_k"] == 2


def test_what_is_mostly_off_the_image_is_told(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("raw", "gradient"):
        assert main(["ask", str(image), "boat?", "--url", server, "--map-kind", kind]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[3] == "  91% of the answer's map is not in the image"
        assert printed[5].startswith("    Is            226    263  ")
        assert printed[5].endswith("  (91% of its map is not in the image)")
        assert not any("not in the image" in line for line in printed[6:])
    assert main(["ask", str(image), "有船吗？", "--url", server]) == 0
    assert "答案的图有 91% 不在图片里" in capsys.readouterr().out
    assert main(["ask", str(image), "boat?", "--url", server, "--map-kind", "similarity"]) == 0
    assert "not in the image" not in capsys.readouterr().out
    assert main(["ask", str(image), "sign?", "--url", server]) == 0
    assert "not in the image" not in capsys.readouterr().out, "nothing was read: that is no look"


def test_that_no_text_was_found_is_said_plainly(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not with a score, nor as what is not sure."""
    assert main(["ask", str(image), "sign?", "--url", server]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "sign?",
        "  no text found",
        "  looked most at (pixels from the upper left, strength of that cell):",
    ]


def test_a_tie_is_told(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(image), "nearly?", "--url", server]) == 0
    assert "\n  not sure: another answer is nearly as likely\n  then: no 39.0%" in capsys.readouterr().out


def test_an_answer_in_chinese_is_told_in_chinese(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(image), "这是什么动物？", "--url", server]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "这是什么动物？",
        "  猫  80.0%",
        "  其次：小狗 15.0%, 其他所有答案 5.0%",
        "  不在模型自己的答案里，只凭字面打分：小狗",
    ]
    assert main(["ask", str(image), "这是kitty-cat吗？", "--url", server]) == 0
    assert "  看得最多的地方（从左上角起的像素，以及那一格的强度）：\n    Is " in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "strength"), [("rollout", "30.0%"), ("gradient", "0.3"), ("similarity", "0.3")])
def test_only_shares_are_printed_per_cent(
    server: str, image: Path, capsys: pytest.CaptureFixture[str], kind: str, strength: str
) -> None:
    assert main(["ask", str(image), "a?", "--url", server, "--map-kind", kind]) == 0
    assert f"    Is            226     37  {strength}\n" in capsys.readouterr().out


def test_ask_draws_one_sheet_a_question(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = image.with_name("out.png")
    assert main(["ask", str(image), "a?", "--url", server, "--map", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.width >= 640
    assert main(["ask", str(image), "a?", "b?", "--url", server, "--map", str(out)]) == 0
    assert sorted(path.name for path in image.parent.glob("out-*")) == ["out-1.png", "out-2.png"]
    assert f"  maps: {image.parent / 'out-2.png'}" in capsys.readouterr().out


def test_candidates_and_kinds(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "ask",
        str(image),
        "a?",
        "--url",
        server,
        "--language",
        "zh",
        "--candidate",
        "cat",
        "--candidate",
        "dog",
    ]
    assert main([*arguments, "--map-kind", "gradient", "--layer", "0", "--layer", "2", "--head", "1"]) == 0
    assert Handler.asked[0]["language"] == "zh"
    assert (Handler.asked[0]["candidates"], Handler.asked[0]["map_kind"]) == (["cat", "dog"], "gradient")
    assert (Handler.asked[0]["layers"], Handler.asked[0]["heads"]) == ([0, 2], [1])
    out = capsys.readouterr().out
    assert "  cat  90.0% (of the candidates)\n  then: dog 10.0%\n" in out
    assert "  two cats  42.0% (of this wording)\n" in out


def test_a_candidate_that_the_model_does_not_know_is_named(
    server: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ask", str(image), "a?", "--url", server, "--candidate", "cat", "--candidate", "a sleeping cat"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "What is it?",
        "  a sleeping cat  60.0% (of the candidates)",
        "  then: cat 40.0%",
        "  none of the model's own answers, scored by their wording alone: a sleeping cat",
    ]


def test_standard_input(server: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image.read_bytes())))
    out = image.with_name("stdin.png")
    assert main(["ask", "-", "a?", "--url", server, "--map", str(out)]) == 0
    assert out.exists()


def test_errors_go_to_stderr(server: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Handler.failure = "question_empty"
    assert main(["ask", str(image), " ", "--url", server]) == 1
    assert capsys.readouterr().err == "crosslook: A question has no text. (question_empty, request req_1)\n"
    assert main(["ask", "missing.png", "a?", "--url", server]) == 1
    assert "missing.png" in capsys.readouterr().err
    assert main(["ask", str(image), "a?", "--url", "localhost"]) == 1
    assert "http://" in capsys.readouterr().err
    assert main(["ask", str(image), "a?", "--url", "http://127.0.0.1:port"]) == 1
    assert "http://127.0.0.1:port" in capsys.readouterr().err
    assert main(["ask", str(image), "a?", "--url", server, "--timeout", "0"]) == 1
    assert capsys.readouterr().err == "crosslook: timeout must be more than 0 seconds\n"
    Handler.failure = None
    assert main(["ask", "http://127.0.0.1/a.png", "a?", "--url", server, "--map", "x.png"]) == 1
    assert "fetched by the server" in capsys.readouterr().err
    for wrong in (
        ["ask", str(image)],
        ["ask", str(image), "a?", "--json", "--csv"],
        ["ask", str(image), "a?", "--json", "--map", "a.png"],
        ["ask", str(image), "a?", "--resume"],
        ["ask", str(image), "a?", "--out", str(image)],
        ["ask", str(image), "a?", "--jobs", "0"],
        ["ask", "-", "-", "a?"],
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(wrong)
        assert exit_info.value.code == 2
        assert "crosslook ask IMAGE... QUESTION..." in capsys.readouterr().err


def test_no_pillow(
    server: str, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "crosslook.overlay", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["ask", str(image), "a?", "--url", server, "--map", "x.png"]) == 1
    assert "pip install pillow" in capsys.readouterr().err


def test_no_server(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(image), "a?", "--url", "http://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert "POST /v1/answer" in error
    assert "No server answers at http://127.0.0.1:9: start one" in error
    assert "bash scripts/serve" in error


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "utf-8", "utf-16", "gb18030"])
def test_output_of_any_encoding(server: str, image: Path, encoding: str) -> None:
    """What a code page lacks is escaped, in answers and in errors; the exit status is that of the question."""
    named = image.rename(image.with_name("貓.png"))
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "crosslook.cli", "ask", "--url", server, str(named), "什麼動物？ 🐈"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    first = done.stdout.decode(encoding).splitlines()[0]
    expected = "什麼動物？ 🐈"
    if encoding in ("cp1252", "cp437", "ascii"):
        expected = expected.encode("ascii", "backslashreplace").decode()
    assert first == expected
    missing = [*command[:-2], "没有.png", "?"]
    done = subprocess.run(missing, env=environment, capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "crosslook: " in done.stderr.decode(encoding)
    assert "Traceback" not in done.stderr.decode(encoding)
