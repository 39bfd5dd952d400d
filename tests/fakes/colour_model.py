"""A model of which everything is known, and toy images for it: coloured squares on grey.

It looks, through the real `CrossAttention`, at cells of the colour that the question's thing has (a dog is red, a ball
green, a car blue; a "thing" is any colour) and names the colour that it sees there.
"""

import io
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.cross_attention import CrossAttention
from model.interface import (
    EncodedImage,
    Geometry,
    Item,
    ItemError,
    Map,
    MapInfo,
    ModelInfo,
    Output,
    Pixels,
    Ranked,
    Region,
    Task,
    TextOutput,
    Token,
    Word,
)

GRID = 8
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LOOKS_AT = {"dog": 0, "ball": 1, "car": 2, "thing": 3}  # channel of the patch features


def preprocess(image: Image.Image) -> Pixels:
    width, height = image.size
    values = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX))
    return Pixels(values, Geometry(width, height, GRID, GRID, Region(0.0, 0.0, float(width), float(height))))


@dataclass
class Encoded:
    features: torch.Tensor  # [1, patches, 4]: redness, greenness, blueness, any of them
    geometry: Geometry
    nbytes: int = 0
    batch_key: str = "colour"


class ColourModel:
    """``blind`` makes it a question-only twin."""

    def __init__(self, *, blind: bool = False) -> None:
        self.info = ModelInfo(
            "colour", "r1", ("answer", "match"), ("raw",), "raw", (0,), GRID, GRID, 32, preprocess=preprocess
        )
        self.blind = blind
        self.encoded = 0
        self.attention = CrossAttention(4, 4, 1).requires_grad_(False).eval()
        for linear, size in zip(self._linears(), (10.0, 10.0, 1.0, 1.0), strict=True):
            linear.weight.copy_(torch.eye(4) * size)
            linear.bias.zero_()

    def _linears(self) -> tuple[torch.nn.Linear, ...]:
        return self.attention.wq, self.attention.wk, self.attention.wv, self.attention.o

    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        self.encoded += len(images)
        return [self._encode(pixels) for pixels in images]

    def _encode(self, pixels: Pixels) -> EncodedImage:
        rgb = torch.from_numpy(pixels.values.astype(np.float32) / 255).flatten(0, 1)
        if self.blind:
            rgb = torch.full_like(rgb, 0.5)
        colour = rgb - rgb.mean(-1, keepdim=True)
        return Encoded(torch.cat([colour, colour.max(-1, keepdim=True).values], -1)[None], pixels.geometry)

    def _look(
        self, image: EncodedImage, text: str, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities of the colours ``[n, 3]`` and map ``[n, patches]``."""
        assert isinstance(image, Encoded)
        channel = next((channel for word, channel in LOOKS_AT.items() if word in text), 3)
        count = 1 if mask is None else len(mask)
        query = torch.eye(4)[channel].expand(count, 1, 4)
        output, looked = self.attention(query, image.features.expand(count, -1, -1), mask=mask, need_map=True)
        assert looked is not None
        return torch.softmax(10 * output[:, 0, :3], -1), looked[:, 0]

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        return [self._run(task, item) for item in items]

    def _run(self, task: Task, item: Item) -> Output | ItemError:
        for index, text in enumerate(item.texts):
            if "??" in text:
                return ItemError("question_not_understood", "what?", index)
        if task == "match":
            seen, _ = self._look(item.image, "thing")
            names = list(COLOURS)
            scores = [float(seen[0][[name in text for name in names]].sum()) for text in item.texts]
            return Output(
                tuple(TextOutput((Ranked(t, s),), "candidates", None) for t, s in zip(item.texts, scores, strict=True))
            )
        return Output(
            tuple(self._answer(item, text) for text in item.texts), MapInfo("raw", (0,)) if item.maps else None
        )

    def _answer(self, item: Item, text: str) -> TextOutput:
        probabilities, looked = self._look(item.image, text)
        ranked = sorted(zip(COLOURS, probabilities[0].tolist(), strict=True), key=lambda pair: -pair[1])[: item.top_k]
        ranking = tuple(Ranked(answer, score) for answer, score in ranked)
        output = TextOutput(ranking, "vocabulary", 1 - sum(r.score for r in ranking))
        if item.maps is None:
            return output
        own, flat = Map(looked[0].view(GRID, GRID).numpy(), 0.0), Map(np.full((GRID, GRID), GRID**-2, np.float32), 0.0)
        words = list(re.finditer(r"\w+", text))
        tokens = [Token(w.group(), w.span(), False, own if w.group() in LOOKS_AT else flat) for w in words]
        return replace(
            output,
            answer_map=own,
            tokens=tuple(tokens),
            words=tuple(Word(w.group(), w.span(), (i,)) for i, w in enumerate(words)),
        )

    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating]:
        probabilities, _ = self._look(image, text, torch.from_numpy(keep).flatten(1))
        return probabilities[:, list(COLOURS).index(answer)].numpy()


def square(colour: str, seed: int, side: int = 64) -> Image.Image:
    """A square of the colour, an eighth of the side, somewhere on grey."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), (128, 128, 128))
    left, top = (int(n) * side // 8 for n in rng.integers(1, 7, size=2))
    image.paste(COLOURS[colour], (left, top, left + side // 8, top + side // 8))
    return image


def write_toy_data(folder: Path, count: int = 60, size: tuple[int, int] = (64, 64)) -> None:
    """Images of ``size`` (width, height) with two questions and two captions each, half ``train``, half ``dev``."""
    lines = []
    with tarfile.open(folder / "toy.tar", "w") as tar:
        for number in range(count):
            colour, name = list(COLOURS)[number % 3], f"{number}.png"
            thing = ("dog", "ball", "car")[number % 3]
            buffer = io.BytesIO()
            square(colour, number).resize(size).save(buffer, "PNG")
            info = tarfile.TarInfo(name)
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)
            base = {"image": name, "split": "train" if number < count // 2 else "dev"}
            lines.append(base | {"question": "What color is the thing?", "answers": [colour], "source": "vqa-v1"})
            lines.append(
                base | {"question": f"What color is the {thing}?", "answers": [colour] * 10, "source": "vqa-v2"}
            )
            lines.append(base | {"question": "Is it day?", "answers": ["yes"], "source": "vqa-v1"})
            captions = [f"A {colour} {thing} on grey.", f"One {colour} {thing} is here."]
            lines.append(base | {"captions": captions, "source": "toy"})
    (folder / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
