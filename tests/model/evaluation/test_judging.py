"""Answers are judged as the VQA challenge does, and the statistics are what their names say."""

import numpy as np
import pytest

from model.evaluation.judging import (
    accuracy,
    answer_kind,
    bootstrap,
    calibration_error,
    calibration_noise,
    calibration_without_chance,
    majority,
    normalise,
    paired_bootstrap,
    soft_targets,
)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes.", "yes"),
        ("  The\n Red   car ", "red car"),
        ("a", ""),
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("No one", "no one"),
        ("no", "no"),
        ("one", "1"),
        ("no-one", "no one"),
        ("this one", "this 1"),
        ("one no one", "1 no one"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.", "us"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("yes, it is", "yes it is"),
        ("red,blue", "red blue"),
        ("dont know", "don't know"),
        ("don't know", "don't know"),
        ("its well", "its well"),
        ("no!", "no"),
        ("10:30", "10:30"),
    ],
)
def test_normalise(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


def leave_one_out(predicted: str, answers: list[str]) -> float:
    """The definition, spelled out."""
    scores = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        scores.append(min(1.0, sum(other == predicted for other in others) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("total", [4, 5, 10])
def test_vqa_accuracy_is_the_mean_over_leave_one_out_subsets(total: int) -> None:
    for matches in range(total + 1):
        answers = ["cat"] * matches + ["dog"] * (total - matches)
        assert accuracy("Cat.", answers, "vqa-v2") == pytest.approx(leave_one_out("cat", answers))


def test_known_vqa_accuracies() -> None:
    expected = [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
    for matches, score in enumerate(expected):
        assert accuracy("2", ["two"] * matches + ["3"] * (10 - matches), "vqa-v2") == pytest.approx(score)


def test_one_answer_is_matched_exactly_after_normalisation() -> None:
    assert accuracy("the Dog", ["dog"], "vqa-v1") == 1.0
    assert accuracy("dogs", ["dog"], "vqa-v1") == 0.0
    assert accuracy("hound", ["dog", "hound"], "my-questions") == 1.0


def test_a_daquar_answer_is_a_set() -> None:
    answers = ["picture", "wall decoration"]
    assert accuracy("wall decoration, picture", answers, "daquar") == 1.0
    assert accuracy("picture", answers, "daquar") == 0.0
    assert accuracy("Chair", ["chair"], "daquar") == 1.0


@pytest.mark.parametrize("written", ["A", "the", "?", "..."])
def test_an_answer_that_normalisation_leaves_nothing_of_is_compared_as_written(written: str) -> None:
    """Nor does it equal the empty answer: that of a refusal, or of a source without a commonest answer."""
    assert normalise(written) == ""
    for source in ("vqa-v1", "daquar"):
        assert accuracy(written, [written], source) == accuracy(written.lower(), [written], source) == 1.0
        assert accuracy("", [written], source) == accuracy("an", [written], source) == 0.0
    assert accuracy("", [written] * 10, "vqa-v2") == 0.0
    assert accuracy(written, [written] * 10, "vqa-v2") == 1.0
    assert majority([written, "dog", written]) == written.lower()
    assert soft_targets([written], "vqa-v1") == {written.lower(): 1.0}


def test_soft_targets_are_the_accuracies_of_the_human_answers() -> None:
    answers = ["Tree"] * 5 + ["log"] * 2 + ["fallen tree"] * 3
    targets = soft_targets(answers, "vqa-v2")
    assert targets == {answer: pytest.approx(accuracy(answer, answers, "vqa-v2")) for answer in targets}
    assert set(targets) == {"tree", "log", "fallen tree"}
    assert soft_targets(["Two"], "vqa-v1") == {"2": 1.0}
    assert soft_targets(["picture", "lamp"], "daquar") == {"picture": 0.5, "lamp": 0.5}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["Yes"], "yes/no"),
        (["no", "no", "2"], "yes/no"),
        (["two"], "number"),
        (["none"], "number"),
        (["3.5"], "number"),
        (["10:30"], "number"),
        (["2 dogs"], "other"),
        (["maybe"], "other"),
    ],
)
def test_answer_kind(answers: list[str], kind: str) -> None:
    assert answer_kind(answers) == kind


def test_majority_takes_the_first_among_equals() -> None:
    assert majority(["log", "tree", "Tree", "Log"]) == "log"
    assert majority(["log", "tree", "Tree"]) == "tree"


def test_bootstrap_interval_agrees_with_the_known_standard_error() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.4, 1.0, 2000)
    interval = bootstrap(values, range(2000))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.count == 2000
    half = 1.96 * values.std() / np.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_bootstrap_draws_whole_groups() -> None:
    """Ten copies of each value are no more evidence than one: the interval must not shrink."""
    values = np.random.default_rng(2).normal(size=200)
    alone = bootstrap(values, range(200))
    copied = bootstrap(np.repeat(values, 10), np.repeat(np.arange(200), 10).tolist())
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=1e-6)
    as_if_independent = bootstrap(np.repeat(values, 10), range(2000))
    assert copied.high - copied.low > 2 * (as_if_independent.high - as_if_independent.low)


def test_of_one_group_there_is_no_interval() -> None:
    for alone in (bootstrap([0.0, 1.0, 0.5], "aaa"), paired_bootstrap([0.3, 0.4], [0.1, 0.1], "aa")):
        assert not alone.known
        assert not alone.low <= alone.mean
        assert not alone.high >= alone.mean
    assert bootstrap([0.0, 1.0, 0.5], "aaa").percent() == "50.0"
    two = bootstrap([0.0, 1.0, 0.5], "aab")
    assert two.known
    assert two.percent() == "50.0 [50.0, 50.0]"


def test_bootstrap_is_repeatable_and_refuses_nonsense() -> None:
    values = [0.0, 1.0, 1.0, 0.3]
    assert bootstrap(values, "aabb", seed=3) == bootstrap(values, "aabb", seed=3)
    with pytest.raises(ValueError, match="one group"):
        bootstrap(values, "aab")
    with pytest.raises(ValueError, match="one group"):
        bootstrap([], [])


def test_paired_bootstrap_sees_a_small_steady_difference() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(size=500)
    better = base + 0.05 + rng.normal(scale=0.1, size=500)
    difference = paired_bootstrap(better, base, range(500))
    assert 0.03 < difference.low < difference.mean < difference.high < 0.07
    alone = bootstrap(better, range(500))
    assert difference.high - difference.low < (alone.high - alone.low) / 5


def test_calibration_error() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.uniform(size=60_000)
    right = (rng.uniform(size=60_000) < confidence).astype(float)
    assert calibration_error(confidence, right) < 0.01
    assert calibration_error(np.minimum(confidence + 0.2, 1.0), right) == pytest.approx(0.18, abs=0.01)
    assert calibration_error([0.9] * 10, [1.0] * 5 + [0.0] * 5, bins=1) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="one accuracy"):
        calibration_error([], [])


def test_what_chance_makes_of_calibration() -> None:
    """Much with few answers, next to nothing with many, nothing where scores leave no doubt."""
    random = np.random.default_rng(5)
    few, many = (calibration_noise(random.uniform(size=size), draws=50) for size in (60, 6000))
    assert 0.1 < few < 0.25
    assert many < 0.025
    assert calibration_noise([0.0, 1.0, 1.0]) == 0
    own = [calibration_error(x := random.uniform(size=300), random.uniform(size=300) < x) for _ in range(50)]
    assert calibration_noise(random.uniform(size=300)) == pytest.approx(np.mean(own), abs=0.01)


def test_calibration_without_chance_is_the_gap_that_is_there() -> None:
    random = np.random.default_rng(0)

    def mean(gap: float, size: int) -> float:
        found = []
        for _ in range(60):
            right = random.uniform(0.2, 0.8, size)
            found.append(calibration_without_chance(right + gap, random.uniform(size=size) < right))
        return float(np.mean(np.square(found)) ** 0.5)

    assert mean(0.0, 6000) < 0.01
    assert mean(0.1, 6000) == pytest.approx(0.1, abs=0.005)
    assert mean(0.0, 100) < 0.1, "the error with chance is 0.15"
    assert mean(0.2, 100) == pytest.approx(0.2, abs=0.02)
    assert calibration_without_chance([0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="two"):
        calibration_without_chance([0.5], [1.0])
