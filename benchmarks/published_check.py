"""LLaVA with random weights, its maps against transformers' own eager attention, on whatever device is here.

    python -m benchmarks.published_check [--toy]

On a GPU LLaVA 1.5 7B at its published size, in float16; elsewhere, or with ``--toy``, a tiny one in float32. Prints how
far the maps are from those of the eager attention, and what both took; ends with status 1 where they are too far.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.machine import table
from model.interface import Generation, Item, MapRequest
from model.published.causal.llava import LlavaImages
from model.published.causal.model import CausalVLM
from model.published.causal.vision import Placement
from model.published.checkpoint import LoadRequest
from model.published.tokenizer import load_tokenizer
from tests.model.published.causal import pairs, sizes
from tests.model.published.checkpoints import make_image

T = TypeVar("T")

QUESTION = "what is the color of the cat and where is it?"
TOKENS = 20
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
"""How far a map may be from eager attention, of shares that sum to 1; float16 has three digits."""
_SHARP = 2.0  # times the queries: attention is peaked, and differences show


def main() -> int:
    """Check, print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="a tiny model")
    toy = parser.parse_args().toy or not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        text, far = check(Path(folder), toy=toy)
    print(text)
    return int(far)


def check(folder: Path, *, toy: bool) -> tuple[str, bool]:
    """The table, and whether maps are too far from eager attention."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if toy else torch.float16
    ours = build(folder, device, dtype, toy=toy)
    net, image = ours.net, make_image(640, 480)
    encoded = ours.encode([ours.info.preprocess(image)])[0]
    item = Item(encoded, (QUESTION,), maps=MapRequest(), generation=Generation(max_new_tokens=TOKENS))

    def answered() -> Any:
        return ours.run("answer", [item])[0].texts[0]  # type: ignore[union-attr]

    answered()  # kernels are compiled
    text, seconds, memory = _measured(device, answered)
    asked = ours.tokenize(QUESTION)
    row = ours.begin(item, QUESTION, asked, None)
    batch = ours.batch()
    batch.join([row.row])
    batch.finish()
    written = row.row.detokenizer.ids
    before = net.model.language_model.config._attn_implementation
    net.set_attn_implementation("eager")
    ids = torch.tensor([[*encoded.ids, *asked.ids, *written]], device=device)
    inputs = ours.images.inputs(ours.info.preprocess(image))

    def eager() -> Any:
        with torch.no_grad():
            return net(input_ids=ids, **inputs, output_attentions=True, use_cache=False)

    theirs, their_seconds, their_memory = _measured(device, eager)
    net.model.language_model.set_attn_implementation(before)
    columns = (ids[0] == ours.prompt.image_id).nonzero()[:, 0]
    attention = torch.stack([layer[0].float().mean(0)[:, columns] for layer in theirs.attentions]).mean(0)
    first = len(encoded.ids) + len(asked.ids) - 1
    wanted = attention[first : first + len(written)]
    placement: Placement = encoded.placement
    grid = placement.on_grid(wanted.cpu().numpy(), encoded.geometry.rows * encoded.geometry.columns)
    found = torch.stack([torch.from_numpy(token.map.values.reshape(-1)) for token in text.answer_tokens])
    difference = float((found - torch.from_numpy(grid)).abs().max())
    best = theirs.logits[0, first : first + len(written)].argmax(-1).tolist()
    agreed = sum(a == b for a, b in zip(best, written, strict=True))
    entropy = float(-(wanted * wanted.clamp_min(1e-12).log()).sum(-1).mean())
    size = sum(parameter.numel() for parameter in net.parameters())
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    head = ["", "seconds", "memory beside the weights, MB"]
    rows = [
        ["crosslook, a second question with maps of all tokens", f"{seconds:.2f}", memory],
        ["transformers eager, one pass with attentions", f"{their_seconds:.2f}", their_memory],
    ]
    notes = (
        f"LLaVA 1.5{' in small' if toy else ' 7B'}: {size / 1e6:.0f}M random weights, {dtype}, {where}; "
        f"{len(written)} tokens about {len(columns)} image tokens. Maps differ from eager attention by "
        f"{difference:.1e} at most (allowed: {TOLERANCE[dtype]:.0e}; mean entropy over the image {entropy:.2f}); "
        f"{agreed} of {len(written)} tokens are the likeliest of the eager pass too.\n\n"
    )
    return notes + table(head, rows), not difference <= TOLERANCE[dtype]


def build(folder: Path, device: torch.device, dtype: torch.dtype, *, toy: bool) -> CausalVLM:
    """LLaVA on the device, made there: nothing is written but the tokenizer and the settings for images."""
    tokenizer = pairs.llama_tokenizer(["<image>", "<pad>"], image_token="<image>")  # noqa: S106 - no password
    tokenizer.save_pretrained(folder)
    side = 48 if toy else 336
    crop = {"height": side, "width": side}
    pairs.image_processor("CLIP", size={"shortest_edge": side}, crop_size=crop).save_pretrained(folder)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            net = sizes.llava_in_small(len(tokenizer)) if toy else sizes.llava_1_5_7b()
    finally:
        torch.set_default_dtype(before)
    for name, parameter in net.named_parameters():
        if name.endswith("q_proj.weight"):
            parameter.data.mul_(_SHARP)
    net.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    net.generation_config.eos_token_id = tokenizer.eos_token_id
    request = LoadRequest(folder, "llava", "random", device, dtype, allow_pickle=False)
    return CausalVLM(net, load_tokenizer(folder), LlavaImages(net, folder, "<image>"), request)


def _measured(device: torch.device, work: Callable[[], T]) -> tuple[T, float, str]:
    """What ``work`` gives, its seconds, and the most memory it took beyond what was there, on a GPU."""
    held = 0
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    start = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return found, seconds, f"{(torch.cuda.max_memory_allocated() - held) / 1e6:.0f}" if device.type == "cuda" else "-"


if __name__ == "__main__":
    sys.exit(main())
