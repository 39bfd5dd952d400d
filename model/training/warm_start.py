"""Training that begins with what another compact model has learned, though not with its inputs or its answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.compact.model import CompactModel
from model.compact.network import CompactNet

_FROZEN = ("text.", "vision.", "detector.")
_BY_ANSWER = ("answers", "free", "bias")
_APART = 0.5  # how far yes and no, which a trained model may have made one, are put apart again
_NEW_ANSWER = 0.3  # quantile of the others' bias that a new answer begins with


@torch.no_grad()
def take_over(net: CompactNet, answers: Sequence[str], old: CompactModel, share: float = 1.0) -> None:
    """Copy into ``net``, which is made ready for training, every trained tensor of ``old`` that fits; vectors of
    answers by what they say. What only ``net`` has stays as it is, made quiet.

    ``share`` below 1: only so much of ``old`` beside what ``net`` has taken over from another, as in model soups
    (Wortsman et al. 2022); models of which one began with the other's weights can be mixed so."""
    theirs, ours = old.net.state_dict(), net.state_dict()
    by_name = {f"head.{part}" for part in _BY_ANSWER}
    for name, values in ours.items():
        buffer = name in ("head.yes_no", "head.numbers") or name.startswith(("head.unseen", "head.yes_from_fit"))
        if name.startswith(_FROZEN) or name in by_name or buffer:
            continue
        if name in theirs and theirs[name].shape == values.shape:
            values.lerp_(theirs[name], share)
    if share < 1:
        for row, answer in enumerate(answers):
            if answer in old.answers and answer not in ("yes", "no"):
                for part in _BY_ANSWER:
                    ours[f"head.{part}"][row].lerp_(theirs[f"head.{part}"][old.answers.index(answer)], share)
        return
    apart = (ours["head.answers"][answers.index("yes")] - ours["head.answers"][answers.index("no")]) / 2
    ours["head.bias"].fill_(theirs["head.bias"].quantile(_NEW_ANSWER).item())
    for row, answer in enumerate(answers):
        if answer in old.answers:
            for part in _BY_ANSWER:
                ours[f"head.{part}"][row] = theirs[f"head.{part}"][old.answers.index(answer)]
    noise = torch.Generator().manual_seed(1)
    for answer, sign in (("yes", 1), ("no", -1)):
        row = answers.index(answer)
        ours["head.answers"][row] += sign * _APART * apart
        ours["head.free"][row] += sign * 0.05 * torch.randn(ours["head.free"].shape[1], generator=noise)
    seen = net.patches.seen
    if seen is not None and "patches.seen.classes.weight" not in theirs:
        seen.classes.weight.copy_(net.patches.meaning.weight)
        seen.colours.weight.copy_(0.3 * net.patches.meaning.weight)
        seen.features.weight.mul_(0.3)
        torch.nn.init.normal_(net.head.evidence.weight, std=0.02)
        torch.nn.init.zeros_(net.head.evidence.bias)
