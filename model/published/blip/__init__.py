"""BLIP (Li et al. 2022): answers, captions and matching. Each architecture is a module of this folder."""

from __future__ import annotations

import importlib

from model.published.checkpoint import LoadRequest, architecture_of, load_checkpoint
from model.published.family import PublishedFamily

MODEL_TYPE = "blip"
ARCHITECTURES = {
    "BlipForQuestionAnswering": ("model.published.blip.answer", "BlipAnswer"),
    "BlipForConditionalGeneration": ("model.published.blip.caption", "BlipCaption"),
    "BlipForImageTextRetrieval": ("model.published.blip.match", "BlipMatch"),
}


def load(request: LoadRequest) -> PublishedFamily:
    """Load whichever of the architectures the folder's config.json names. Raises ValueError or OSError for a folder
    that is none of them, or not a whole one."""
    import transformers

    architecture = architecture_of(request.folder, ARCHITECTURES)
    module, name = ARCHITECTURES[architecture]
    loaded = load_checkpoint(getattr(transformers, architecture), request)
    family: PublishedFamily = getattr(importlib.import_module(module), name)(loaded)
    return family
