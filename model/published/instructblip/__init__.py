"""InstructBLIP (Dai et al. 2023): BLIP-2 whose queries read the instruction before they look."""

from __future__ import annotations

from model.published.blip2.instruct import InstructBlip
from model.published.checkpoint import LoadRequest, architecture_of, load_checkpoint
from model.published.tokenizer import load_tokenizer

MODEL_TYPE = "instructblip"
ARCHITECTURES = ("InstructBlipForConditionalGeneration",)


def load(request: LoadRequest) -> InstructBlip:
    """Load an `InstructBlipForConditionalGeneration`, and the second tokenizer that its folder has for the Q-Former.

    Raises ValueError or OSError for a folder that holds no such model.
    """
    from transformers import InstructBlipForConditionalGeneration

    architecture_of(request.folder, ARCHITECTURES)
    own = load_tokenizer(request.folder / "qformer_tokenizer")
    return InstructBlip(load_checkpoint(InstructBlipForConditionalGeneration, request), own)
