"""What a training run can be told; each is an option of ``crosslook-server train``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run depends on beside its data."""

    steps: int = 2200
    images: int = 24
    rows: int = 4
    learning_rate: float = 3e-4
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
    made: int = 2
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
