"""Train the default model: ``crosslook-server train --data DIR`` (or ``scripts/train --data DIR``).

The vision network is frozen, its features are cached once; text layers are frozen too; the fusion, the patch
embedding and the head are trained. A new model then learns matching, colours (unless it began with them), and *yes*
from *no* anew. A run's folder holds its settings, a log of figures, and a checkpoint from which the same command goes
on.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn

from model.compact.image_networks import CALIBRATION, DETECTOR, load_detector, load_ranges
from model.compact.model import EMBEDDED, CompactModel, load
from model.compact.network import CompactConfig, CompactNet
from model.evaluation.data import DataError, DataSet, Question, read_data
from model.evaluation.options import positive
from model.training.batches import Sampler
from model.training.collage_tasks import CollageMaker, collage_pools
from model.training.colour_fit import fit_colours
from model.training.features import load_features
from model.training.made_questions import made_texts, made_words
from model.training.match_fit import fit_match
from model.training.pretrained import SentenceEncoder, start_from_pretrained
from model.training.settings import Settings
from model.training.steps import run_steps
from model.training.tasks import MATCH_PROMPT, CaptionTasks, Example, question_examples
from model.training.texts import TextCache
from model.training.tuning import fit_unseen, set_temperatures
from model.training.warm_start import take_over
from model.training.yes_no_fit import fit_yes_no
from model.training.yes_no_questions import asked_by_image

_TEXTS_TO_CENTRE = 500
_EXTRA_WORDS = "is this true? a photo image picture of the there any are how many what color colour doing who where"


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
    run_steps(model, sampler, parts.tune, features, settings, out, trained, device)
    if start is None:
        if warm:
            take_over(net, answers, _load(warm[-1]), settings.kept)
        if captions and not settings.blind:
            fit_match(model, captions, features, texts, seed=settings.seed)
        if not any(_load(one).net.config.hues for one in warm):  # the steps went on with these; anew they are worse
            fit_colours(model, parts.train, features, seed=settings.seed)
        fit_yes_no(model, parts.train, features, seed=settings.seed)
    fit_unseen(model)
    set_temperatures(model, parts.tune, features)
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


if __name__ == "__main__":
    raise SystemExit(main())
