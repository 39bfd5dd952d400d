"""Train the default model: ``crosslook-server train --data DIR`` (or ``scripts/train --data DIR``).

The vision network is frozen, its features are cached once; text layers are frozen too; the fusion, the patch
embedding and the head are trained. A new model then learns matching, colours, and *yes* from *no* anew. A run's folder
holds its settings, a log of figures, and a checkpoint from which the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.compact.image_networks import CALIBRATION, DETECTOR, load_detector, load_ranges
from model.compact.model import EMBEDDED, CompactModel, load
from model.compact.network import CompactConfig, CompactNet
from model.evaluation.data import DataError, DataSet, Question, read_data
from model.evaluation.options import positive
from model.training.batches import Mix, Sampler
from model.training.collage_tasks import CollageMaker, collage_pools
from model.training.colour_fit import fit_colours
from model.training.features import FeatureCache, load_features
from model.training.losses import batch_loss
from model.training.made_questions import made_texts, made_words
from model.training.match_fit import fit_match
from model.training.pretrained import SentenceEncoder, start_from_pretrained
from model.training.tasks import MATCH_PROMPT, CaptionTasks, Example, question_examples
from model.training.texts import TextCache
from model.training.tuning import ENOUGH_TO_FIT, figures, fit_temperatures, fit_unseen
from model.training.warm_start import take_over
from model.training.yes_no_fit import fit_yes_no
from model.training.yes_no_questions import asked_by_image

_TEXTS_TO_CENTRE = 500
_EXTRA_WORDS = "is this true? a photo image picture of the there any are how many what color colour doing who where"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run depends on beside its data."""

    steps: int = 1200
    images: int = 24
    rows: int = 3
    learning_rate: float = 4e-4
    answers_rate: float = 6e-5
    """Of the answers' vectors, which start from what the answers mean."""
    weight_decay: float = 0.05
    warmup: int = 40
    smoothing: float = 0.05
    dropout: float = 0.25
    caption_share_first: float = 0.2
    caption_share_last: float = 0.1
    captioned_images: int = 2000
    """Of the images that have captions: what the texts of more cost in time is more than they teach."""
    turned_share: float = 0.0
    made: int = 3
    """Questions an image whose answers the detector knows."""
    map_weight: float = 0.3
    """Of the boxes that a made question's word should look at."""
    count_weight: float = 0.3
    """Of the objects that a made question means."""
    collages: int = 4
    collage_stock: int = 4000
    collage_weight: float = 0.3
    """At the first step; it falls to ``collage_weight_last`` by the middle of the run and stays there: maps that point
    are learned early, and then only kept."""
    collage_weight_last: float = 0.15
    drop_patches: float = 0.3
    daquar_weight: float = 0.4
    average: float = 0.995
    min_answers: int = 4
    tune_share: float = 0.06
    """Of the train images: to choose by and to fit the temperature on; dev is never touched."""
    coarse_share: float = 0.93
    """Of the steps: the first ones, which see a quarter of the patches and cost half."""
    kept: float = 0.3
    """Of the last model of ``--warm``, mixed in again when all steps are done: what it knew of people's answers and the
    steps made it forget (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models")."""
    seed: int = 0
    blind: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of training; returns the exit status."""
    parser = argparse.ArgumentParser(prog="crosslook-server train", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder in the format of docs/data.md")
    parser.add_argument("--out", type=Path, default=Path("runs/compact"), help="the run's folder: %(default)s")
    parser.add_argument("--cache", type=Path, default=None, help="folder of cached features (default: runs/features)")
    parser.add_argument("--from", dest="start", default=None, help="start from this model (`compact` or a folder)")
    parser.add_argument(
        "--warm", nargs="+", help="a new model, but begin with what these have learned, evenly (`compact` or folders)"
    )
    parser.add_argument("--blind", action="store_true", help="train the question-only twin")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=positive, default=None)
    for option in fields(Settings):
        if option.name != "blind":
            kind = type(option.default)
            parser.add_argument(
                f"--{option.name.replace('_', '-')}", type=kind, default=None, metavar=str(option.default)
            )
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    given = {key: value for key, value in vars(args).items() if key in Settings.__slots__ and value is not None}
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    data = read_data(args.data)
    cache = args.cache or args.out.parent / "features"
    settings = replace(Settings(), **given)
    train(data, args.out, cache, settings, device=device, start=args.start, warm=args.warm or ())
    return 0


def train(
    data: DataSet,
    out: Path,
    cache: Path,
    settings: Settings,
    *,
    device: torch.device,
    start: str | None = None,
    warm: Sequence[str] = (),
) -> CompactModel:
    """Train to the last step and write the model to ``out/model``; goes on from ``out/checkpoint.pt`` if there.

    Raises DataError where no question of the train split has an answer that the model knows.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = {**asdict(settings), "start": start, "warm": list(warm)}
    (out / "settings.json").write_text(json.dumps(about, indent=1) + "\n")
    torch.manual_seed(settings.seed)
    parts = split_train(data, settings.tune_share)
    net, vocabulary, answers = _make_net(data, parts, settings, start)
    if start is None:
        for i, one in enumerate(warm):
            take_over(net, answers, _load(one), 1 / (i + 1))
    folder = EMBEDDED if start in (None, "compact") else Path(start)  # whose detector and ranges no package has
    variant = net.config.detector
    model = CompactModel(
        net,
        vocabulary,
        answers,
        id="compact",
        revision="training",
        device=device,
        detector=load_detector(folder / DETECTOR, variant) if variant else None,
        ranges=load_ranges(folder / CALIBRATION),
        dtype="auto",
        folder=folder,
    )
    captions = [record for record in data.captions if record.split == "train"][: settings.captioned_images]
    refs = [question.image_ref for question, _ in (*parts.train, *parts.tune)]
    features = load_features(data, model, cache, device, [*refs, *(record.image_ref for record in captions)])
    trained = _freeze(net)
    asked = asked_by_image(parts.train, set(answers), settings.daquar_weight)
    if not asked:
        raise DataError("no train question has an answer that the model knows; train without --from to learn new ones")
    tasks = CaptionTasks(frozenset(answers), captions) if captions else None
    for parameter in trained:
        parameter.requires_grad_(True)
    texts = TextCache(net.text, model.tokenizer, device, cache)
    collages = []
    if settings.collages and not settings.blind:
        collages = CollageMaker(collage_pools(asked, captions, tasks)).make(settings.collage_stock, settings.seed)
    sampler = Sampler(
        asked,
        captions,
        tasks,
        collages,
        features,
        texts,
        answers,
        seed=settings.seed,
        device=device,
    )
    _run_steps(model, sampler, parts.tune, features, settings, out, trained, device)
    if start is None:
        if warm:
            take_over(net, answers, _load(warm[-1]), settings.kept)
        if captions and not settings.blind:
            fit_match(model, captions, features, texts, seed=settings.seed)
        fit_colours(model, parts.train, features, seed=settings.seed)
        fit_yes_no(model, parts.train, features, seed=settings.seed)
    fit_unseen(model)
    if len(parts.tune) >= ENOUGH_TO_FIT:
        temperature, by_kind = fit_temperatures(model, parts.tune, features)
        net.config = replace(net.config, temperature=temperature, temperatures=by_kind)
    model.save(out / "model")
    return model


@dataclass(frozen=True, slots=True)
class Parts:
    """The train split, divided by image: what is learned from, and what is chosen by."""

    train: list[tuple[Question, Example]]
    tune: list[tuple[Question, Example]]


def split_train(data: DataSet, tune_share: float) -> Parts:
    """Divide the train split by image; statements count as questions."""
    found = question_examples(
        (q for q in data.questions if q.split == "train"), (s for s in data.statements if s.split == "train")
    )
    refs = sorted({question.image_ref for question, _ in found})
    chosen = set(random.Random(0).sample(refs, max(1, round(tune_share * len(refs)))))  # noqa: S311
    return Parts(
        [pair for pair in found if pair[0].image_ref not in chosen],
        [pair for pair in found if pair[0].image_ref in chosen and not pair[1].text.startswith(MATCH_PROMPT)],
    )


def _make_net(
    data: DataSet, parts: Parts, settings: Settings, start: str | None
) -> tuple[CompactNet, list[str], list[str]]:
    if start is not None:
        model = _load(start)
        return model.net, model.vocabulary, model.answers
    counts: Counter[str] = Counter()
    for question, example in parts.train:
        for answer, share in example.targets.items():
            counts[answer] += share * (1.0 if question.source != "daquar" else 0.5)  # type: ignore[assignment]
    answers = [answer for answer, count in counts.most_common() if count >= settings.min_answers]
    answers = list(dict.fromkeys([*answers, "yes", "no", *made_words()]))
    texts = [question.question for question, _ in (*parts.train, *parts.tune)]
    texts += [caption for record in data.captions if record.split == "train" for caption in record.captions]
    vocabulary = SentenceEncoder().cut_vocabulary([*texts, *answers, *made_texts(), _EXTRA_WORDS])
    seeing = {} if settings.blind else {"detector": "nanodet", "default_map_kind": "gradient", "hues": True}
    config = CompactConfig(blind=settings.blind, **seeing)  # type: ignore[arg-type]
    net = CompactNet(config, vocabulary=len(vocabulary), answers=len(answers), dropout=settings.dropout)
    start_from_pretrained(net, vocabulary, answers, texts[:_TEXTS_TO_CENTRE])
    return net, vocabulary, answers


def _load(model: str) -> CompactModel:
    return load() if model == "compact" else load(Path(model))


def _freeze(net: CompactNet) -> list[nn.Parameter]:
    """The parameters that are trained: patches (but not what the classes mean), fusion and head."""
    later = [*net.head.unseen.parameters(), *net.head.yes_from_fit.parameters()]
    if net.head.hues:
        later += [*net.head.read_hues.parameters(), *net.head.hue_gate.parameters()]
    frozen = {id(parameter) for parameter in (net.patches.class_meaning.weight, *later)}
    if net.patches.seen is not None:
        frozen |= {id(net.patches.seen.class_meaning.weight), id(net.patches.seen.colour_meaning.weight)}
    parts = (net.patches, net.narrow, net.fusion, net.head)
    return [parameter for part in parts for parameter in part.parameters() if id(parameter) not in frozen]


def _run_steps(
    model: CompactModel,
    sampler: Sampler,
    tune: Sequence[tuple[Question, Example]],
    features: FeatureCache,
    settings: Settings,
    out: Path,
    trained: Sequence[nn.Parameter],
    device: torch.device,
) -> None:
    net = model.net
    optimizer = torch.optim.AdamW(_groups(net, trained, settings), betas=(0.9, 0.98))
    average = [parameter.detach().clone() for parameter in trained]
    how = {"smoothing": settings.smoothing, "drop_patches": settings.drop_patches}
    taught = {"map_weight": settings.map_weight, "count_weight": settings.count_weight}
    first = 0
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for parameter, value, mean, kept in zip(trained, saved["values"], average, saved["average"], strict=True):
                parameter.copy_(value)
                mean.copy_(kept)
    rates = [group["lr"] for group in optimizer.param_groups]
    rates = [group.setdefault("initial", rate) for group, rate in zip(optimizer.param_groups, rates, strict=True)]
    saved_at, loss_mean, began = time.monotonic(), 0.0, time.monotonic()
    bar = tqdm(
        range(first, settings.steps), initial=first, total=settings.steps, unit="step", smoothing=0.02, mininterval=5
    )
    for step in bar:
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout too resumes where it was
        net.train()
        share = step / settings.steps
        scale = min(1.0, (step + 1) / settings.warmup) * 0.5 * (1 + math.cos(math.pi * share))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        caption_share = settings.caption_share_first + share * (
            settings.caption_share_last - settings.caption_share_first
        )
        captioned = max(0, round(settings.images * caption_share))
        mix = Mix(settings.images, settings.rows, captioned, settings.turned_share, settings.collages, settings.made)
        batch, collages = sampler.draw(step, mix)
        rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            coarse_only = share < settings.coarse_share
            loss = batch_loss(net, batch, rng, **how, **taught, coarse_only=coarse_only)
            if collages is not None:
                left = max(0.0, 1 - 2 * share)
                weight = settings.collage_weight * left + settings.collage_weight_last * (1 - left)
                loss = loss + weight * batch_loss(net, collages, rng, **how, coarse_only=coarse_only)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay = min(settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, parameter in zip(average, trained, strict=True):
                mean.lerp_(parameter, 1 - decay)
        loss_mean += (loss.item() - loss_mean) / min(step - first + 1, 50)
        bar.set_postfix(loss=f"{loss_mean:.3f}")
        if time.monotonic() - saved_at > 240 or step + 1 == settings.steps:
            saved_at = time.monotonic()
            _save_checkpoint(checkpoint, step + 1, optimizer, trained, average)
        if (step + 1) % 200 == 0 or step + 1 == settings.steps:
            line = {
                "step": step + 1,
                "loss": round(loss_mean, 4),
                "seconds": round(time.monotonic() - began),
                **_with_average(model, trained, average, tune, features),
            }
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            bar.write(json.dumps(line))
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    net.eval()


def _groups(net: CompactNet, trained: Sequence[nn.Parameter], settings: Settings) -> list[dict[str, Any]]:
    """What starts from pretrained vectors learns slowly; norms, biases and single vectors do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in trained:
        groups.setdefault((parameter is not net.head.answers, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate if is_new else settings.answers_rate,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (is_new, is_matrix), parameters in groups.items()
    ]


def _save_checkpoint(
    file: Path, step: int, optimizer: torch.optim.Optimizer, trained: Sequence[Tensor], average: Sequence[Tensor]
) -> None:
    state = {
        "step": step,
        "optimizer": optimizer.state_dict(),
        "values": [parameter.detach() for parameter in trained],
        "average": list(average),
    }
    torch.save(state, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def _with_average(
    model: CompactModel,
    trained: Sequence[nn.Parameter],
    average: Sequence[Tensor],
    tune: Sequence[tuple[Question, Example]],
    features: FeatureCache,
) -> dict[str, float]:
    """Accuracy on the part chosen by, with the averaged weights in place."""
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
        found = figures(model, tune, features)
        for parameter, value in zip(trained, kept, strict=True):
            parameter.copy_(value)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
