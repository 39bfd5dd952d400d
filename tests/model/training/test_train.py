"""Training is a function of its data, settings and seed: cached, broken off or gone on with, it comes out the same."""

import itertools
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from model.compact.model import CompactModel, load, tiny
from model.compact.text_encoder import pad_ids, tokenize
from model.evaluation.data import DataSet, ImageRef, read_data
from model.training import steps
from model.training import train as training
from model.training.batches import Mix, Sampler, collage_features
from model.training.collage_tasks import CollageMaker, CollagePool, collage_image
from model.training.features import load_features
from model.training.settings import Settings
from model.training.tasks import Asked, CaptionTasks, Example
from model.training.texts import TextCache
from model.training.train import split_train, train
from tests.fakes.colour_model import write_toy_data

CPU = torch.device("cpu")
MIXED = {"caption_share_first": 0.5, "caption_share_last": 0.25, "turned_share": 0.2}
SETTINGS = Settings(steps=6, images=4, rows=2, warmup=2, collage_stock=5, **MIXED)


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
    things = [collage_image(a.ref, a.examples, [f"{a.ref.name[-1]}"], frozenset({"color"})) for a in asked]
    collages = CollageMaker([CollagePool(things, frozenset({"color"}))]).make(8, 0)
    return Sampler(
        asked,
        captions,
        tasks,
        collages,
        load_features(data, model, folder, CPU),
        TextCache(model.net.text, model.tokenizer, CPU),
        model.answers,
        seed=seed,
        device=CPU,
    )


def mix(*, captioned: int = 3, collages: int = 0) -> Mix:
    return Mix(images=6, rows=2, captioned=captioned, turned=0.0, collages=collages)


def test_features_are_those_of_the_image(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    cache = load_features(data, model, tmp_path, CPU)
    assert set(cache.index) == set(data.image_refs)
    for ref in (data.image_refs[0], data.image_refs[-1]):
        pixels = torch.from_numpy(np.stack([model.info.preprocess(data.open_image(ref)).values]))
        with torch.no_grad():
            seen = model.net.describe(model.image_networks(pixels), pixels)
        found, meaning = cache.take([cache.index[ref]], CPU)
        assert torch.allclose(found.fine, seen.fine, atol=2e-3, rtol=2e-3)
        assert torch.allclose(found.coarse, seen.coarse, atol=2e-3, rtol=2e-3)
        assert len(meaning) == 1


def test_the_detector_sees_images_in_their_proportions(tmp_path: Path) -> None:
    write_toy_data(tmp_path, 2, (64, 32))
    data, model = read_data(tmp_path), tiny()
    cache = load_features(data, model, tmp_path / "features", CPU)
    seen = cache.take([cache.index[ref] for ref in data.image_refs], CPU)[0].seen
    pixels = torch.from_numpy(np.stack([model.info.preprocess(data.open_image(ref)).values for ref in data.image_refs]))
    with torch.no_grad():
        expected, squashed = (
            model.net.describe(model.image_networks(pixels, aspects), pixels).seen for aspects in ([2.0, 2.0], None)
        )
    assert seen is not None
    assert expected is not None
    assert squashed is not None
    assert torch.allclose(seen.features, expected.features, atol=5e-4)
    assert seen.objects.any()
    assert torch.allclose(seen.objects, expected.objects, atol=1e-5)
    assert not torch.allclose(seen.features, squashed.features, atol=5e-4)
    assert not torch.allclose(seen.objects, squashed.objects, atol=1e-2)


def test_a_collage_has_the_features_of_its_four_images(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    cache = load_features(data, model, tmp_path, CPU)
    seen, meaning = cache.take([0, 1, 2, 3], CPU)
    collage, of_it = collage_features(seen, meaning)
    half = seen.fine.shape[-1] // 2
    small = torch.nn.functional.avg_pool2d(seen.fine, 2)
    assert torch.equal(collage.fine[0, :, :half, half:], small[1]), "the second is at the top right"
    assert torch.equal(collage.fine[0, :, half:, :half], small[2])
    assert collage.seen is not None
    assert seen.seen is not None
    assert of_it.shape == meaning[:1].shape
    assert collage.seen.objects.shape == seen.seen.objects[:1].shape
    best = seen.seen.objects[3, 0]
    moved = torch.cat([best[:2], best[2:] / 2 + 0.5])
    assert (collage.seen.objects[0] - moved).abs().sum(-1).min() < 1e-6, "its best object is there, at half the size"


def test_features_of_other_images_leave_those_in_use_as_they_are(data: DataSet, tmp_path: Path) -> None:
    model, refs = tiny(), data.image_refs
    some = load_features(data, model, tmp_path, CPU, refs[:2])
    before = some.take([0, 1], CPU)[0].coarse
    others = load_features(data, model, tmp_path, CPU, refs[::-1])
    assert torch.equal(some.take([0, 1], CPU)[0].coarse, before)
    found = others.take([others.index[ref] for ref in refs[:2]], CPU)[0].coarse
    assert torch.equal(found, before), "of the same images"
    assert len(others.index) == len(refs)


def test_features_are_made_once_and_go_on_after_a_break(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    whole = load_features(data, model, tmp_path / "whole", CPU)
    opened: list[ImageRef] = []
    open_image = data.open_image

    def breaks_at_the_last(ref: ImageRef) -> object:
        opened.append(ref)
        if len(opened) == len(data.image_refs):
            raise Broken
        return open_image(ref)

    monkeypatch.setattr(data, "open_image", breaks_at_the_last)
    with pytest.raises(Broken):
        load_features(data, model, tmp_path / "part", CPU)
    again = load_features(data, model, tmp_path / "part", CPU)
    rows = range(len(whole.index))
    assert whole.parts.keys() == again.parts.keys() == {"fine", "coarse", "detected", "colours", "objects", "meaning"}
    assert all(torch.equal(again.parts[part].take(rows), whole.parts[part].take(rows)) for part in whole.parts)
    before = len(opened)
    load_features(data, model, tmp_path / "part", CPU)
    assert len(opened) == before, "nothing is left to make"


def test_a_batch_depends_on_seed_and_step_alone(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    one, other = (make_sampler(data, model, tmp_path) for _ in range(2))
    one.draw(0, mix())
    first, second = one.draw(7, mix())[0], other.draw(7, mix())[0]
    assert torch.equal(first.states, second.states)
    assert torch.equal(first.targets, second.targets)
    assert torch.equal(first.features.fine, second.features.fine)
    assert not torch.equal(first.features.fine, one.draw(8, mix())[0].features.fine)
    another = make_sampler(data, model, tmp_path, seed=1).draw(7, mix())[0]
    assert not torch.equal(first.features.fine, another.features.fine)


def test_targets_are_shares_over_the_known_answers(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    batch, collages = make_sampler(data, model, tmp_path).draw(0, mix(captioned=0))
    assert collages is None
    sums = batch.targets.sum(-1)
    assert batch.states.shape[0] == batch.mask.shape[0] == batch.targets.shape[0] == 6 * 2
    # Each image has one text of the two that a row has room for.
    assert torch.allclose(sums[::2], torch.ones(6))
    assert torch.equal(sums[1::2], torch.zeros(6))
    red, blue = model.answers.index("red"), model.answers.index("blue")
    assert torch.allclose(batch.targets[0, [red, blue]], torch.tensor([0.5, 0.5]))


def test_collages_have_the_shape_of_images_and_say_what_a_text_is_about(data: DataSet, tmp_path: Path) -> None:
    model = tiny()
    sampler = make_sampler(data, model, tmp_path)
    _, collages = sampler.draw(3, mix(collages=5))
    assert collages is not None
    assert collages.features.fine.shape == (5, *sampler.features.take([0], CPU)[0].fine.shape[1:])
    assert collages.features.coarse.shape == (5, *sampler.features.take([0], CPU)[0].coarse.shape[1:])
    assert collages.places is not None
    assert collages.places.shape == (5 * 2,)
    assert collages.places.max() <= 3


def test_texts_pass_the_text_layers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    texts = ["what color is it", "how many", "what color is it"]
    cache = TextCache(model.net.text, model.tokenizer, CPU, tmp_path)
    cache.add(texts)
    again = TextCache(model.net.text, model.tokenizer, CPU, tmp_path)
    monkeypatch.setattr(again, "encoder", None)  # every text comes from the file
    states, mask = again.take(texts)
    ids, real = pad_ids([tokenize(model.tokenizer, text).ids for text in texts])
    with torch.no_grad():
        found = model.net.text(ids, real)
    assert torch.equal(mask, real)
    assert torch.allclose(states[mask], found[real], atol=2e-3)


def test_the_part_chosen_by_shares_no_image_with_what_is_learned_from(data: DataSet) -> None:
    parts = split_train(data, 0.06)
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
    monkeypatch.setattr(steps, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    train(data, tmp_path / "whole", tmp_path / "cache", SETTINGS, device=CPU, start=start)
    draw = Sampler.draw

    def break_at_step_4(self: Sampler, step: int, *arguments: Mix) -> object:
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
    made = train(data, tmp_path / "run", tmp_path / "cache", SETTINGS, device=CPU, start=start)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (settings["steps"], settings["seed"], settings["start"]) == (6, 0, start)
    assert torch.equal(made.net.head.bias.half().float(), trained(tmp_path / "run")["head.bias"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6
    assert {"loss", "seconds", "all", "vqa"} <= lines[-1].keys()


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_a_number_of_threads_that_there_cannot_be(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        training.main(["--data", "nowhere", "--threads", threads])
    assert stopped.value.code == 2
    assert f"--threads: must be a whole number of at least 1, not '{threads}'" in capsys.readouterr().err
