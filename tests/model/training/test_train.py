"""Training is a function of its data, settings and seed: cached, broken off or gone on with, it comes out the same."""

import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from model.compact import CompactModel, load, tiny
from model.training import train as training
from model.training.batches import Asked, Sampler
from model.training.data import DataSet, ImageRef, read_data
from model.training.features import load_features
from model.training.tasks import CaptionTasks, Example
from model.training.train import Settings, split_train, train
from tests.model.training.colour_model import write_toy_data

CPU = torch.device("cpu")
SETTINGS = Settings(steps=6, images=4, rows=2, warmup=2)


class Broken(Exception):
    """Stands for the machine going down in the middle of a step."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder, 40)
    return read_data(folder)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("start")
    tiny().save(folder)
    return str(folder)


def make_sampler(data: DataSet, model: CompactModel, folder: Path, *, seed: int = 0) -> Sampler:
    captions = [record for record in data.captions if record.split == "train"]
    tasks = CaptionTasks(frozenset(model.answers), captions)
    asked = [
        Asked(ref, [Example("what color is it", {"red": 0.3, "blue": 0.3, "mauve": 0.4})]) for ref in data.image_refs
    ]
    return Sampler(
        asked,
        captions,
        tasks,
        load_features(data, model.net, folder, CPU),
        model.net,
        model.tokenizer,
        model.answers,
        images=6,
        rows=2,
        board_share=0.5,
        seed=seed,
        device=CPU,
    )


def test_features_are_those_of_the_image(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    cache = load_features(data, model.net, tmp_path, CPU)
    assert set(cache.index) == set(data.image_refs)
    for ref in (data.image_refs[0], data.image_refs[-1]):
        pixels = torch.from_numpy(np.stack([model.info.preprocess(data.open_image(ref)).values]))
        with torch.no_grad():
            seen = model.net.vision(pixels)
        found, meaning = cache.take([cache.index[ref]], CPU)
        assert torch.allclose(found.fine, seen.fine, atol=2e-3, rtol=2e-3)
        assert torch.allclose(found.coarse, seen.coarse, atol=2e-3, rtol=2e-3)
        assert len(meaning) == 1


def test_features_are_made_once_and_go_on_after_a_break(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    whole = load_features(data, model.net, tmp_path / "whole", CPU)
    opened: list[ImageRef] = []
    open_image = data.open_image

    def breaks_at_the_last(ref: ImageRef) -> object:
        opened.append(ref)
        if len(opened) == len(data.image_refs):
            raise Broken
        return open_image(ref)

    monkeypatch.setattr(data, "open_image", breaks_at_the_last)
    with pytest.raises(Broken):
        load_features(data, model.net, tmp_path / "part", CPU)
    again = load_features(data, model.net, tmp_path / "part", CPU)
    assert np.array_equal(again.fine, whole.fine)
    assert np.array_equal(again.coarse, whole.coarse)
    before = len(opened)
    load_features(data, model.net, tmp_path / "part", CPU)
    assert len(opened) == before, "nothing is left to make"


def test_a_batch_depends_on_seed_and_step_alone(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    one, other = (make_sampler(data, model, tmp_path) for _ in range(2))
    one.draw(0, 0.5)
    first, second = one.draw(7, 0.5), other.draw(7, 0.5)
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.targets, second.targets)
    assert torch.equal(first.features.fine, second.features.fine)
    assert not torch.equal(first.features.fine, one.draw(8, 0.5).features.fine)
    assert not torch.equal(first.features.fine, make_sampler(data, model, tmp_path, seed=1).draw(7, 0.5).features.fine)


def test_targets_are_shares_over_the_known_answers(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    batch = make_sampler(data, model, tmp_path).draw(0, 0.0)
    sums = batch.targets.sum(-1)
    assert batch.states.shape[0] == batch.mask.shape[0] == batch.targets.shape[0] == 6 * 2
    # Each image has one text of the two that a row has room for.
    assert torch.allclose(sums[::2], torch.ones(6))
    assert torch.equal(sums[1::2], torch.zeros(6))
    red, blue = model.answers.index("red"), model.answers.index("blue")
    assert torch.allclose(batch.targets[0, [red, blue]], torch.tensor([0.5, 0.5]))


def test_boards_have_the_shape_of_images(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    sampler = make_sampler(data, model, tmp_path)
    batch = sampler.draw(3, 1.0)
    assert batch.features.fine.shape[0] == batch.features.coarse.shape[0] == 6
    assert batch.features.fine.shape[1:] == sampler.features.fine.shape[1:]
    assert batch.features.coarse.shape[1:] == sampler.features.coarse.shape[1:]


def test_the_part_chosen_by_shares_no_image_with_what_is_learned_from(data: DataSet) -> None:
    parts = split_train(data, 0)
    learned, chosen = ({question.image_ref for question, _ in part} for part in (parts.train, parts.tune))
    assert learned
    assert chosen
    assert not learned & chosen
    assert all(question.split == "train" for question, _ in parts.train + parts.tune), "dev is never touched"


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder / "model").net.state_dict()


def test_a_broken_run_goes_on_as_if_it_had_not(
    data: DataSet, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every look at the clock is ten minutes after the last, so that each step is saved.
    clock = itertools.count(0, 600)
    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    train(data, tmp_path / "whole", tmp_path / "cache", SETTINGS, device=CPU, start=start)
    draw = Sampler.draw

    def break_at_step_4(self: Sampler, step: int, *arguments: float) -> object:
        if step == 4:
            raise Broken
        return draw(self, step, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Sampler, "draw", break_at_step_4)
        with pytest.raises(Broken):
            train(data, tmp_path / "broken", tmp_path / "cache", SETTINGS, device=CPU, start=start)
    train(data, tmp_path / "broken", tmp_path / "cache", SETTINGS, device=CPU, start=start)
    whole, resumed, born = trained(tmp_path / "whole"), trained(tmp_path / "broken"), load(Path(start)).net.state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    changed = {name.split(".")[0] for name in whole if not torch.equal(whole[name], born[name])}
    assert changed >= {"patches", "fusion", "head"}
    assert not changed & {"vision", "text"}, "frozen"


def test_a_run_keeps_its_settings_and_figures(data: DataSet, start: str, tmp_path: Path) -> None:
    train(data, tmp_path / "run", tmp_path / "cache", SETTINGS, device=CPU, start=start)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (settings["steps"], settings["seed"], settings["start"]) == (6, 0, start)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6
    assert {"loss", "seconds", "all", "vqa"} <= lines[-1].keys()
