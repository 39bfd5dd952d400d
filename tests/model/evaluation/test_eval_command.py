"""``crosslook-server eval`` as a user runs it, on the tiny random model and toy data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import main as server
from model.compact.model import tiny
from model.evaluation.evaluate import main
from tests.fakes.colour_model import write_toy_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder, 40)
    return folder


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin")
    model = tiny()
    model.net.config = replace(model.net.config, blind=True)
    model.save(folder)
    return folder


def test_everything_at_once(data: Path, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, answers = tmp_path / "new" / "report.md", tmp_path / "also" / "new" / "answers.jsonl"
    arguments = ["eval", "--data", str(data), "--model", "tiny", "--twin", str(twin), "--shuffle"]
    arguments += ["--maps", "--matching"]
    assert server([*arguments, "--images", "12", "--threads", "1", "--out", str(out), "--answers", str(answers)]) == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    assert "| questions | kind | count | model | question-only twin | images shuffled | commonest answer |" in printed
    assert "| raw, random weights | all | 36 |" in printed
    figures = json.loads(out.with_suffix(".json").read_text())
    assert (figures["model"], figures["images"], figures["questions"]) == ("tiny", 12, 36)
    assert figures["matching"]["accuracy"]["count"] == 24
    assert {row["name"] for row in figures["maps"]} >= {"uniform", "centre", "raw"}
    records = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(records) == 36
    assert set(records[0]) >= {"model", "twin", "shuffled", "commonest", "accuracy", "score"}


def test_chosen_kinds_and_layers_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(data), "--model", "tiny", "--maps", "--no-answers", "--threads", "1"]
    arguments += ["--images", "4", "--texts", "1", "--collages", "4"]
    assert main([*arguments, "--kinds", "gradient,rollout", "--layers", "each"]) == 0
    printed = capsys.readouterr().out
    assert "Accuracy" not in printed
    names = [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines() if " | 4 |" in line]
    kinds = [name for name in dict.fromkeys(names) if "," not in name]
    expected = ["uniform", "centre"]
    expected += [f"{kind}{layers}" for layers in ("", " [0]", " [1]") for kind in ("gradient", "rollout")]
    assert kinds[: len(expected)] == expected
    assert names[2:5] == ["gradient", "gradient, other question", "gradient, random weights"]
    assert main([*arguments, "--kinds", "raw", "--layers", "0,1"]) == 0
    assert "| raw [0, 1] | all | 4 |" in capsys.readouterr().out


def test_a_second_run_finds_the_same(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for _ in range(2):
        assert main(["--data", str(data), "--model", "tiny", "--images", "5", "--shuffle", "--threads", "1"]) == 0
        runs.append(capsys.readouterr().out)
    assert runs[0] == runs[1]


def test_a_model_that_looks_is_no_twin(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny().save(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(data), "--model", "tiny", "--twin", str(tmp_path), "--images", "3", "--threads", "1"])
    assert stopped.value.code == 2
    assert "is not blind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere is not a folder"),
        (["--data", "DATA", "--split", "test"], "no question of the split 'test'"),
        (["--data", "DATA", "--model", "no-such-model"], "no-such-model"),
        (
            ["--data", "DATA", "--maps", "--no-answers", "--kinds", "raw,similarity"],
            "kind raw, gradient, rollout, not",
        ),
        (["--data", "DATA", "--threads", "-1"], "--threads: must be a whole number of at least 1, not '-1'"),
        (["--data", "DATA", "--threads", "0"], "--threads: must be a whole number of at least 1, not '0'"),
        (["--data", "DATA", "--images", "0"], "--images: must be a whole number of at least 1, not '0'"),
        (["--data", "DATA", "--device", "mps"], "unknown device 'mps'; there are auto, cpu"),
        (["--data", "DATA", "--answers", "DATA"], "is a folder; name a file"),
        (["--data", "DATA", "--out", "DATA/toy.tar/report.md"], "toy.tar"),
        (["--data", "DATA", "--maps", "--no-answers", "--layers", "2"], "has the layers [0, 1], not [2]"),
        (["--data", "DATA", "--maps", "--no-answers", "--layers", "last"], "or `each`, not 'last'"),
    ],
)
def test_what_is_wrong_is_said(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("DATA", str(data)) for argument in arguments]
    if "--model" not in arguments:
        arguments += ["--model", "tiny"]
    with pytest.raises(SystemExit) as stopped:
        main(["--threads", "1", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
