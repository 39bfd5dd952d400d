"""Train the default model: ``crosslook-server train --data DIR`` (or ``scripts/train --data DIR``).

The vision network is frozen, its features are cached once; text layers are frozen too; the fusion layers, which start
as upper layers of the sentence encoder, the patch embedding and the head are trained. A run's folder holds its
settings, a log of figures, and a checkpoint from which the same command goes on.
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
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from model.compact import MATCH_PROMPT, CompactModel, load
from model.compact_net import FIRST_PATCH, CompactConfig, CompactNet
from model.text import pad_ids, tokenize
from model.training.batches import Asked, Batch, Mix, Sampler
from model.training.board_tasks import NO_THINGS, BoardImage, BoardMaker, BoardPool, board_image
from model.training.boards import THING_WORDS
from model.training.data import Captions, DataError, DataSet, ImageRef, Question, read_data
from model.training.features import FeatureCache, load_board_features, load_features
from model.training.metrics import accuracy
from model.training.pretrained import SentenceEncoder, start_from_pretrained
from model.training.tasks import CaptionTasks, Example, question_examples
from model.training.teachers import Teachers
from model.training.texts import TextCache
from model.training.turned import TurnedQuestions

_ENOUGH_TO_FIT = 50  # questions; with fewer, the temperature stays what it is
_TURNS = 2  # yes/no questions made of each that can be
_EXTRA_WORDS = "is this true? a photo image picture of the there any are how many what color colour doing who where"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run depends on beside its data."""

    steps: int = 1500
    images: int = 32
    rows: int = 4
    learning_rate: float = 6e-4
    answers_rate: float = 6e-5
    """Of the answers' vectors, which start from what the answers mean."""
    weight_decay: float = 0.05
    warmup: int = 100
    smoothing: float = 0.05
    dropout: float = 0.2
    caption_share_first: float = 0.4
    caption_share_last: float = 0.15
    turned_share: float = 0.2
    boards: int = 6
    board_stock: int = 2000
    """Different boards; each costs a pass of the vision network, once."""
    board_weight: float = 0.2
    drop_patches: float = 0.3
    daquar_weight: float = 0.4
    average: float = 0.995
    min_answers: int = 4
    tune_share: float = 0.06
    """Of the train images: to choose by and to fit the temperature on; dev is never touched."""
    coarse_share: float = 0.8
    """Of the steps: the first ones, which see a quarter of the patches and cost half."""
    taught: float = 0.5
    """With teachers: how much of a target is theirs, of the answers' that people gave the rest."""
    foreign: int = 3
    """With teachers: so many questions more an image, of other images."""
    seed: int = 0
    blind: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of training; returns the exit status."""
    parser = argparse.ArgumentParser(prog="crosslook-server train", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder in the format of docs/data.md")
    parser.add_argument("--out", type=Path, default=Path("runs/compact"), help="the run's folder: %(default)s")
    parser.add_argument("--cache", type=Path, default=None, help="folder of cached features (default: runs/features)")
    parser.add_argument("--from", dest="start", default=None, help="start from this model (`compact` or a folder)")
    parser.add_argument("--blind", action="store_true", help="train the question-only twin")
    parser.add_argument("--teachers", type=Path, nargs="+", default=(), help="folders of models to learn from besides")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=None)
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
    train(data, args.out, cache, settings, device=device, start=args.start, teachers=args.teachers)
    return 0


def train(
    data: DataSet,
    out: Path,
    cache: Path,
    settings: Settings,
    *,
    device: torch.device,
    start: str | None = None,
    teachers: Sequence[Path] = (),
) -> CompactModel:
    """Train to the last step and write the model to ``out/model``; goes on from ``out/checkpoint.pt`` if there.

    ``teachers`` are folders of models that were trained on the same data: beside people's answers, the model learns
    what they say in the mean (distillation, Hinton et al. 2015), also of questions about other images.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = {**asdict(settings), "start": start, "teachers": [str(folder) for folder in teachers]}
    (out / "settings.json").write_text(json.dumps(about, indent=1) + "\n")
    torch.manual_seed(settings.seed)
    parts = split_train(data, settings.tune_share)
    net, vocabulary, answers = _make_net(data, parts, settings, start)
    captions = [record for record in data.captions if record.split == "train"]
    refs = [question.image_ref for question, _ in (*parts.train, *parts.tune)]
    features = load_features(data, net, cache, device, [*refs, *(record.image_ref for record in captions)])
    net.to(device)
    trained = _freeze(net)
    asked = _by_image(parts.train, set(answers), settings)
    if not asked:
        raise DataError("no train question has an answer that the model knows; train without --from to learn new ones")
    tasks = CaptionTasks(frozenset(answers), captions) if captions else None
    model = CompactModel(net, vocabulary, answers, id="compact", revision="training", device=device)
    for parameter in trained:
        parameter.requires_grad_(True)
    texts = TextCache(net.text, model.tokenizer, device, cache)
    boards, board_features = [], None
    if settings.boards and not settings.blind:
        boards = BoardMaker(_pools(asked, captions, tasks)).make(settings.board_stock, settings.seed)
    if boards:
        board_features = load_board_features(data, net, [board.refs for board in boards], cache, device)
    sampler = Sampler(
        asked,
        captions,
        tasks,
        boards,
        features,
        board_features,
        texts,
        answers,
        seed=settings.seed,
        device=device,
    )
    texts.add(sampler.all_texts())
    taught = Teachers(teachers, answers, device) if teachers else None
    _run_steps(model, sampler, taught, parts.tune, features, settings, out, trained, device)
    _fit_unseen(model)
    if len(parts.tune) >= _ENOUGH_TO_FIT:
        net.config = replace(net.config, temperature=fit_temperature(model, parts.tune, features))
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
        model = load() if start == "compact" else load(Path(start))
        return model.net, model.vocabulary, model.answers
    counts: Counter[str] = Counter()
    for question, example in parts.train:
        for answer, share in example.targets.items():
            counts[answer] += share * (1.0 if question.source != "daquar" else 0.5)  # type: ignore[assignment]
    answers = [answer for answer, count in counts.most_common() if count >= settings.min_answers]
    answers = list(dict.fromkeys([*answers, "yes", "no"]))
    texts = [question.question for question, _ in (*parts.train, *parts.tune)]
    texts += [caption for record in data.captions if record.split == "train" for caption in record.captions]
    vocabulary = SentenceEncoder().cut_vocabulary([*texts, *answers, _EXTRA_WORDS])
    config = CompactConfig(blind=settings.blind)
    net = CompactNet(config, vocabulary=len(vocabulary), answers=len(answers), dropout=settings.dropout)
    start_from_pretrained(net, vocabulary, answers)
    return net, vocabulary, answers


def _freeze(net: CompactNet) -> list[nn.Parameter]:
    """The parameters that are trained: patches (but not what the classes mean), fusion and head."""
    frozen = {id(net.patches.class_meaning.weight), *(id(p) for p in net.head.unseen.parameters())}
    parts = (net.patches, net.narrow, net.fusion, net.head)
    return [parameter for part in parts for parameter in part.parameters() if id(parameter) not in frozen]


def _by_image(pairs: Sequence[tuple[Question, Example]], answers: set[str], settings: Settings) -> list[Asked]:
    """The questions by image, and yes/no questions made from them."""
    best = [(question, max(example.targets, key=example.targets.get)) for question, example in pairs if example.targets]  # type: ignore[arg-type]
    turner = TurnedQuestions((question.question, answer, question.kind) for question, answer in best)
    turned: dict[ImageRef, list[Example]] = {}
    for question, answer in best:
        for number in range(_TURNS):
            rng = random.Random(f"{question.question}/{number}")  # noqa: S311
            found = turner.turn(question.question, answer, question.kind, rng)
            if found is not None:
                turned.setdefault(question.image_ref, []).append(found)
    by_image: dict[ImageRef, list[Example]] = {}
    weights: dict[ImageRef, float] = {}
    for question, example in pairs:
        if any(answer in answers for answer, share in example.targets.items() if share > 0):
            by_image.setdefault(question.image_ref, []).append(example)
            weights[question.image_ref] = settings.daquar_weight if question.source == "daquar" else 1.0
    return [Asked(ref, examples, turned.get(ref, []), weights[ref]) for ref, examples in by_image.items()]


def _pools(asked: Sequence[Asked], captions: Sequence[Captions], tasks: CaptionTasks | None) -> list[BoardPool]:
    """What boards are made of: images with captions, and images with questions."""
    pools = []
    nouns = frozenset() if tasks is None else frozenset(tasks.nouns)
    if tasks is not None:
        images = [board_image(record.image_ref, tasks.stock(record), record.captions, nouns) for record in captions]
        pools.append(BoardPool(images, nouns))
    # Of people, questions say too little: that nobody asks about a man does not say that there is none.
    things = Counter(
        answer for one in asked for example in one.examples for answer in example.targets if answer.isalpha()
    )
    nouns |= {thing for thing, count in things.items() if count >= 8 and thing not in NO_THINGS}
    nouns -= THING_WORDS["person"]
    by_archive: dict[str, list[BoardImage]] = {}
    for one in asked:
        said = [f"{example.text} {' '.join(example.targets)}" for example in one.examples]
        image = board_image(one.ref, [*one.examples, *one.turned], said, nouns)
        by_archive.setdefault(one.ref.archive, []).append(image)
    return [*pools, *(BoardPool(images, nouns) for images in by_archive.values())]


def _loss(net: CompactNet, batch: Batch, settings: Settings, rng: torch.Generator, *, coarse_only: bool) -> Tensor:
    """Of the answers; and on boards, of the maps: how little of them lies on the quarter that a text is about."""
    state = net.describe(batch.features, batch.meaning, coarse_only=coarse_only)
    images, keys = batch.features.fine.shape[0], state.layers[0].keys.shape[2]
    patch_mask = None
    if keys > FIRST_PATCH:
        share = torch.rand(images, 1, generator=rng) * 2 * settings.drop_patches
        keep = torch.rand(images, keys, generator=rng) >= share
        keep[:, :FIRST_PATCH] = True
        patch_mask = keep.repeat_interleave(batch.rows, 0).to(state.meaning.device)
    on_board = batch.places is not None and keys > FIRST_PATCH
    fused = net.fuse_states(batch.states, batch.mask, [(state, batch.rows)], need_maps=on_board, patch_mask=patch_mask)
    log_probabilities = F.log_softmax(net.logits(fused.vector), -1)
    weight = (batch.targets.sum(-1) > 0).float()
    fit = -(batch.targets * log_probabilities).sum(-1)
    spread = -log_probabilities.mean(-1)
    smoothing = settings.smoothing
    loss = (weight * ((1 - smoothing) * fit + smoothing * spread)).sum() / weight.sum().clamp_min(1)
    if on_board and batch.places is not None:
        loss = loss + _miss(fused.maps, batch.mask, batch.places)
    return loss


def _miss(maps: Sequence[Tensor], mask: Tensor, places: Tensor) -> Tensor:
    """The mean of ``-log`` of the share of a map on its quarter: the answer's map of each layer, and the mean of the
    tokens'. ``maps`` ``[rows, tokens, keys]`` each, ``places`` ``[rows]``, -1 where a text has none."""
    rows = (places >= 0).nonzero()[:, 0]
    half = math.isqrt(maps[0].shape[-1] - FIRST_PATCH) // 2
    total: Tensor = maps[0].new_zeros(())
    for layer in maps:
        squares = layer[rows, :, FIRST_PATCH:]
        squares = squares.reshape(*squares.shape[:2], 2, half, 2, half).sum((-3, -1)).flatten(-2)
        on_place = squares.gather(-1, places[rows, None, None].expand(-1, squares.shape[1], 1))[..., 0]
        valid = mask[rows].float()
        tokens = (on_place * valid).sum(1) / valid.sum(1)
        total = total - (on_place[:, 0] + 1e-3).log().mean() - 0.5 * (tokens + 1e-3).log().mean()
    return total / len(maps)


def _run_steps(
    model: CompactModel,
    sampler: Sampler,
    teachers: Teachers | None,
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
        foreign = 0 if teachers is None else settings.foreign
        mix = Mix(settings.images, settings.rows, captioned, settings.turned_share, settings.boards, foreign)
        batch, boards = sampler.draw(step, mix)
        rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            coarse_only = share < settings.coarse_share
            if teachers is not None:
                batch = teachers.answer(batch, settings.taught)
            loss = _loss(net, batch, settings, rng, coarse_only=coarse_only)
            if boards is not None:
                loss = loss + settings.board_weight * _loss(net, boards, settings, rng, coarse_only=coarse_only)
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
            figures = _with_average(model, trained, average, tune, features)
            line = {
                "step": step + 1,
                "loss": round(loss_mean, 4),
                "seconds": round(time.monotonic() - began),
                **figures,
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
        figures = _figures(model, tune, features)
        for parameter, value in zip(trained, kept, strict=True):
            parameter.copy_(value)
    return figures


@torch.no_grad()
def tune_logits(
    model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache
) -> tuple[list[Question], Tensor]:
    """The questions, grouped by image, and their logits at temperature 1."""
    model.net.eval()
    by_image: dict[ImageRef, list[Question]] = {}
    for question, _ in pairs:
        by_image.setdefault(question.image_ref, []).append(question)
    ordered, logits = [], []
    for ref, questions in by_image.items():
        seen, meaning = features.take([features.index[ref]], model.device)
        ids, mask = pad_ids([tokenize(model.tokenizer, question.question).ids[:64] for question in questions])
        state = model.net.describe(seen, meaning)
        fused = model.net.fuse(ids.to(model.device), mask.to(model.device), [(state, len(questions))])
        logits.append(F.linear(fused.vector, model.net.head.weight, model.net.head.bias).float().cpu())
        ordered += questions
    return ordered, torch.cat(logits)


def _figures(
    model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache
) -> dict[str, float]:
    questions, logits = tune_logits(model, pairs, features)
    best = logits.argmax(-1).tolist()
    scores: dict[str, list[float]] = {}
    for question, index in zip(questions, best, strict=True):
        score = accuracy(model.answers[index], question.answers, question.source)
        for name in (question.source, "all"):
            scores.setdefault(name, []).append(score)
        if question.source in ("vqa-v1", "vqa-v2"):
            for name in ("vqa", f"vqa {question.kind}"):
                scores.setdefault(name, []).append(score)
    return {name: round(100 * sum(values) / len(values), 2) for name, values in sorted(scores.items())}


def fit_temperature(model: CompactModel, pairs: Sequence[tuple[Question, Example]], features: FeatureCache) -> float:
    """The temperature whose scores say best how often the top answer is right (least log loss of that event)."""
    questions, logits = tune_logits(model, pairs, features)
    best = logits.argmax(-1).tolist()
    right = torch.tensor(
        [accuracy(model.answers[i], q.answers, q.source) for q, i in zip(questions, best, strict=True)]
    )
    losses: dict[float, float] = {}
    for temperature in (0.5 + 0.025 * step for step in range(101)):
        top = (logits / temperature).softmax(-1).amax(-1).clamp(1e-6, 1 - 1e-6)
        losses[temperature] = float(F.binary_cross_entropy(top, right))
    least = min(losses.values())
    return round(next(temperature for temperature, loss in losses.items() if loss == least), 4)


@torch.no_grad()
def _fit_unseen(model: CompactModel) -> None:
    """Ridge regression from the text features of the known answers to their trained vectors, for any other answer."""
    ids, mask = pad_ids([tokenize(model.tokenizer, answer).ids[:64] for answer in model.answers])
    states = model.net.text(ids.to(model.device), mask.to(model.device))
    mask = mask.to(model.device)
    texts = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    center, target = texts.mean(0), model.net.head.weight.mean(0)
    x, y = (texts - center).double(), (model.net.head.weight - target).double()
    gram = x.T @ x + 0.05 * len(x) * x.var() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ y).T.float()
    model.net.head.unseen.weight.copy_(weight)
    model.net.head.unseen.bias.copy_(target - weight @ center)


if __name__ == "__main__":
    raise SystemExit(main())
