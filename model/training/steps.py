"""The steps of a run: draw a batch, take the loss down, keep the average of the weights; and the checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.compact.model import CompactModel
from model.compact.network import CompactNet
from model.evaluation.data import Question
from model.training.batches import Mix, Sampler
from model.training.features import FeatureCache
from model.training.losses import batch_loss
from model.training.settings import Settings
from model.training.tasks import Example
from model.training.tuning import figures

_SAVED_EVERY = 240.0  # seconds


def run_steps(
    model: CompactModel,
    sampler: Sampler,
    tune: Sequence[tuple[Question, Example]],
    features: FeatureCache,
    settings: Settings,
    out: Path,
    trained: Sequence[nn.Parameter],
    device: torch.device,
) -> None:
    """All steps of a run, which leave the average of the weights in ``trained``. It goes on from ``out/checkpoint.pt``
    if there, saves it every four minutes, and writes its figures on ``tune`` to ``out/log.jsonl``."""
    net = model.net
    optimizer = torch.optim.AdamW(_groups(net, trained, settings), betas=(0.9, 0.98))
    average = [parameter.detach().clone() for parameter in trained]
    how = {"smoothing": settings.smoothing, "drop_patches": settings.drop_patches}
    taught = {"map_weight": settings.map_weight, "count_weight": settings.count_weight}
    checkpoint = out / "checkpoint.pt"
    first = _resume(checkpoint, optimizer, trained, average, device)
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
        if time.monotonic() - saved_at > _SAVED_EVERY or step + 1 == settings.steps:
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


def _resume(
    file: Path,
    optimizer: torch.optim.Optimizer,
    trained: Sequence[nn.Parameter],
    average: Sequence[Tensor],
    device: torch.device,
) -> int:
    """Put everything back to where it was saved; the number of the next step, 0 without a checkpoint."""
    if not file.exists():
        return 0
    saved = torch.load(file, weights_only=True, map_location=device)
    optimizer.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        for parameter, value, mean, kept in zip(trained, saved["values"], average, saved["average"], strict=True):
            parameter.copy_(value)
            mean.copy_(kept)
    step: int = saved["step"]
    return step


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
