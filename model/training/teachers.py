"""Models that teach another: several together know more than each, and one can learn what they say in the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.compact import load
from model.compact_net import CompactNet
from model.training.batches import Batch
from model.training.data import DataError


class Teachers:
    """Models that were trained on the same features: same vision, same text layers, same answers.

    Question-only twins may be among them: they hold a model that sees to what is likely of a question by itself.
    """

    def __init__(self, folders: Sequence[Path], answers: Sequence[str], device: torch.device) -> None:
        """Raises DataError for a teacher of other answers."""
        models = [load(folder, device=str(device)) for folder in folders]
        for model, folder in zip(models, folders, strict=True):
            if model.answers != list(answers):
                raise DataError(f"{folder} knows other answers than the model to be trained")
        self._nets = [model.net.eval() for model in models]

    @torch.no_grad()
    def answer(self, batch: Batch, share: float) -> Batch:
        """The batch with targets of which ``share`` is the teachers': the mean of their logits, as probabilities. Of
        questions without an answer, all of it; of examples made from captions nothing, for these are not guesses."""
        said = torch.stack([self._ask(net, batch) for net in self._nets]).mean(0).softmax(-1)
        theirs = torch.full_like(said[:, :1], share)
        theirs[batch.people * batch.rows :] = 0
        theirs[batch.targets.sum(-1) == 0] = 1
        return replace(batch, targets=(1 - theirs) * batch.targets + theirs * said)

    @staticmethod
    def _ask(net: CompactNet, batch: Batch) -> Tensor:
        state = net.describe(batch.features, batch.meaning, coarse_only=True)
        return net.logits(net.fuse_states(batch.states, batch.mask, [(state, batch.rows)]).vector).log_softmax(-1)
