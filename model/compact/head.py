"""What the answer is read from: logits over the answers, from the fused question and from what it looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.compact.colours import COLOURS
from model.compact.config import CompactConfig
from model.compact.objects import COUNTS, Evidence, ObjectReader


class AnswerHead(nn.Module):
    """Logits over the answers: one vector, made of the fused question and of the meaning it looked at, against the
    vector of each answer."""

    def __init__(self, config: CompactConfig, answers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fused = nn.Sequential(
            nn.LayerNorm(config.fusion_dim + config.dim),
            nn.Dropout(dropout),
            nn.Linear(config.fusion_dim + config.dim, 2 * config.dim),
            nn.GELU(),
            nn.LayerNorm(2 * config.dim),
            nn.Dropout(2 * dropout),
            nn.Linear(2 * config.dim, config.meaning_dim + config.free_dim),
        )
        self.read = nn.Linear(config.meaning_dim, config.meaning_dim)
        self.answers = nn.Parameter(torch.randn(answers, config.meaning_dim) * 0.05)
        self.free = nn.Parameter(torch.zeros(answers, config.free_dim))
        self.yes_from_text = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Dropout(dropout),
            nn.Linear(config.dim, config.dim),
            nn.GELU(),
            nn.Dropout(2 * dropout),
            nn.Linear(config.dim, 1),
        )
        # How much rather *yes* it is where the question fits the image: learned after all else, as matching is.
        with torch.random.fork_rng(devices=[]):
            self.yes_from_fit = nn.Linear(config.dim, 1)
        nn.init.zeros_(self.yes_from_fit.weight)
        nn.init.zeros_(self.yes_from_fit.bias)
        self.counts = COUNTS if config.detector_channels else 0
        if self.counts:
            self.reader = ObjectReader(config.dim, config.meaning_dim)
            self.evidence = nn.Linear(2 * len(COLOURS) + COUNTS + 1, config.fusion_dim)
            self.read_colours = nn.Linear(2 * len(COLOURS), config.meaning_dim, bias=False)
            self.read_objects = nn.Linear(config.meaning_dim, config.meaning_dim, bias=False)
            self.gates = nn.Linear(config.dim, 3)
            self.yes_from_objects = nn.Linear(config.dim, 1)
        self.hues = bool(self.counts) and config.hues
        if self.hues:
            with torch.random.fork_rng(devices=[]):
                self.read_hues = nn.Linear(2 * len(COLOURS), config.meaning_dim)
                self.hue_gate = nn.Linear(config.dim, 1)
            nn.init.zeros_(self.read_hues.weight)  # nothing, until it is learned
            nn.init.zeros_(self.read_hues.bias)
        self.numbers: Tensor
        self.register_buffer("numbers", torch.zeros(answers, self.counts), persistent=bool(self.counts))
        self.yes_no: Tensor
        self.register_buffer("yes_no", torch.zeros(answers))
        self.bias = nn.Parameter(torch.zeros(answers))
        # text features -> the vector of any other answer
        self.unseen = nn.Linear(config.dim, config.meaning_dim + config.free_dim + 1 + self.counts)

    def mark_yes_no(self, answers: Sequence[str]) -> None:
        """Tell which answers `yes_score` raises and lowers, and which answers are counts."""
        self.yes_no.copy_(torch.tensor([{"yes": 0.5, "no": -0.5}.get(answer, 0.0) for answer in answers]))
        for i, answer in enumerate(answers):
            if answer.isdecimal() and int(answer) < self.counts:
                self.numbers[i, int(answer)] = 1.0

    @property
    def is_yes_no(self) -> Tensor:
        """1 for the answers *yes* and *no*, 0 for all others, ``[answers]``."""
        return 2 * self.yes_no.abs()

    @property
    def weight(self) -> Tensor:
        """The answers' whole vectors ``[answers, meaning_dim + free_dim + 1 + counts]``."""
        return torch.cat([self.answers, self.free, self.yes_no[:, None], self.numbers], -1)

    def vector(
        self, fused: Tensor, asked: Tensor, looked_at: Tensor, fit: Tensor, evidence: Evidence | None = None
    ) -> Tensor:
        """``fused`` ``[rows, fusion_dim]``, ``asked`` (what the question says by itself) ``[rows, dim]``,
        ``looked_at`` ``[rows, meaning_dim]``, ``fit`` ``[rows]`` (see `Matching`) -> ``[rows, meaning_dim + free_dim +
        1]``.

        The last number is `yes_score`: from the question's words, and from how well it fits the image, which counts
        more for some questions than for others. It has a small network of its own: in a vector that serves all answers,
        the little that can be learned of it gets lost.
        """
        read, counts = self.read(looked_at), fused.new_zeros(len(fused), self.counts)
        yes = self.yes_score(asked, fit, None if evidence is None else evidence.presence)
        if evidence is not None:
            said = F.layer_norm(asked, asked.shape[-1:])
            gates = self.gates(said)
            of_colour, of_object = gates[:, :2].sigmoid().split(1, -1)
            read = read + of_colour * self.read_colours(evidence.colours)
            read = read + of_object * self.read_objects(evidence.meaning)
            if self.hues:
                read = read + self.hue_gate(said).sigmoid() * self.read_hues(evidence.hues)
            counts = gates[:, 2:] * evidence.counts
            seen = (evidence.colours, evidence.counts.exp(), evidence.presence[:, None] / 4)
            fused = fused + self.evidence(torch.cat(seen, -1))
        vector: Tensor = self.fused(torch.cat([fused, asked], -1)) + F.pad(read, (0, self.free.shape[-1]))
        return torch.cat([vector, yes, counts], -1)

    def yes_score(self, asked: Tensor, fit: Tensor, presence: Tensor | None = None) -> Tensor:
        """How much rather *yes* than *no* it is, ``[rows, 1]``; ``asked`` and ``fit`` as in `vector`, ``presence`` as
        in `Evidence`."""
        said = F.layer_norm(asked, asked.shape[-1:])
        score: Tensor = self.yes_from_text(asked) + self.yes_from_fit(said) * fit[:, None]
        return score if presence is None else score + self.yes_from_objects(said) * presence[:, None]
