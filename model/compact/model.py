"""The default model behind `model.interface.Model`: questions about an image, answered by a softmax over known answers.

A model's folder holds ``config.json``, ``model.safetensors`` (and ``fitted.safetensors``, see `model.compact.storage`),
``vocabulary.txt``, ``answers.txt``, ``calibration.json`` (see `model.compact.image_networks`) and, where what scores
mean was measured, ``reliability.json`` (see `model.reliability`). `tiny` is the same code at toy size with random
weights; most tests run on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from model.compact import chinese, image_networks
from model.compact.answer_words import AnswerWords
from model.compact.answers import AnswerSpace, logits_of
from model.compact.cuda_graphs import FuseGraphs
from model.compact.detector import NanoDet
from model.compact.network import FIRST_PATCH, MAP_KINDS, CompactConfig, CompactNet, ImageState
from model.compact.passes import Passes
from model.compact.preprocess import Squash
from model.compact.question_networks import Asked, OnnxQuestions
from model.compact.reading.answer import Legible, Reading, looks_of
from model.compact.reading.lines import load_reader
from model.compact.storage import FITTED, Uninitialised, forget, load_fitted, revision_of, save_small
from model.compact.texts import Texts
from model.compact.toy import tiny_parts
from model.family import Family, TokenizedText
from model.grid_maps import with_maps
from model.interface import (
    EncodedImage,
    Geometry,
    Item,
    ItemError,
    LaterTexts,
    MapInfo,
    MapKind,
    MapRequest,
    ModelInfo,
    Output,
    Pixels,
    ReliabilityBand,
    Task,
    TextOutput,
)
from model.reliability import RELIABILITY, load_table

logger = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parents[1] / "weights" / "compact"
_TINY_RANGES: dict[int, image_networks.Ranges] = {}


@dataclass(frozen=True, slots=True)
class CompactImage:
    """An encoded image: keys and values of every fusion layer, and what its places mean and match."""

    state: ImageState
    geometry: Geometry
    legible: Legible | None = None
    batch_key: Hashable = "compact"
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        tensors = self.state.tensors()
        object.__setattr__(self, "nbytes", sum(x.nbytes for x in (*tensors, self.legible) if x is not None))


class CompactModel(Family):
    """See `model.interface.Model` for what the methods promise."""

    net: CompactNet

    def __init__(
        self,
        net: CompactNet,
        vocabulary: Sequence[str],
        answers: Sequence[str],
        *,
        id: str,
        revision: str,
        device: torch.device | str = "cpu",
        detector: NanoDet | None = None,
        ranges: image_networks.Ranges | None = None,
        dtype: str = "torch",
        reading: Reading | None = None,
        reliability: tuple[ReliabilityBand, ...] = (),
        folder: Path | None = None,
    ) -> None:
        """``detector``: there is one where ``net.config`` names one. ``ranges`` and ``dtype``: see `use_dtype`. As it
        is, all is PyTorch's, and follows ``net`` where it is trained on. ``folder``: where the Chinese encoder and
        answers lie."""
        self.net = net.eval().requires_grad_(False).to(device)
        self.net.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.detector = None if detector is None else detector.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.ranges = ranges
        self.vocabulary = list(vocabulary)
        self.answers = list(answers)
        self.folder = folder
        self.texts = Texts(net, vocabulary, folder)
        self.use_dtype(dtype)
        self.tokenizer = self.texts.tokenizer
        self.words = AnswerWords(folder, self.answers)
        self._space = AnswerSpace(net, self.texts, self.answers, self.words)
        self.reading = reading
        config = net.config
        self.info = ModelInfo(
            id=id,
            revision=revision,
            tasks=("answer", "match") if config.matches and not config.blind else ("answer",),
            map_kinds=() if config.blind else MAP_KINDS,
            default_map_kind=None if config.blind else config.default_map_kind,
            layers=tuple(range(config.fusion_layers)),
            rows=config.cells,
            columns=config.cells,
            max_tokens=config.max_tokens,
            preprocess=Squash(config.pixels, config.cells, config.cells, reading.detail if reading else 0),
            default_layers=None if config.blind else config.default_map_layers,
            reliability=reliability,
            languages=self.texts.languages,
            answer_languages=self.words.languages,
            heads=0 if config.blind else config.cross_heads,
        )
        self.encode_calls = 0
        self.use_kernel("auto")

    def use_dtype(self, dtype: str) -> None:
        """Compute the image networks as `model.compact.image_networks.choose` says, from their weights as they are;
        where these go through ONNX Runtime, questions do too, in float32 (from weights as they are at the first)."""
        vision, size, blind = self.net.vision, self.net.config.size, self.net.config.blind
        self.image_networks = image_networks.choose(
            vision, self.detector, size, ranges=self.ranges, dtype=dtype, device=self.device
        )
        self.questions = None if blind or self.image_networks.way == "torch" else OnnxQuestions(self.net)
        self.texts.encode_english = self.net.text if self.questions is None else self.questions.text

    def use_kernel(self, kernel: str) -> None:
        """Compute cross-attention by one of `model.kernels.KERNELS`. On a CUDA device small batches go through CUDA
        graphs, unless it is ``reference``, which is run as it is written. On a CPU, ``auto`` may be ONNX Runtime's
        (see `use_dtype`). Raises ValueError for an unknown one."""
        super().use_kernel(kernel)
        self._kernel = kernel
        graphs = self.device.type == "cuda" and kernel != "reference"
        self._graphs = FuseGraphs(self.net) if graphs else None

    def keep_what_serves(self) -> None:
        """Forget the weights that ONNX Runtime has copies of. After it a model can be asked, but not trained, copied or
        saved."""
        if self.image_networks.way == "torch":
            return
        for module in (self.net.vision, self.detector):
            if module is not None:
                forget(module)
        if self.questions is not None:
            self.questions.build(self.texts.forget_english)

    @torch.no_grad()
    def encode(self, images: Sequence[Pixels]) -> list[EncodedImage]:
        """Run the image networks over a batch of images, and project the patches to every layer's keys and values."""
        self.encode_calls += 1
        pixels = torch.from_numpy(np.stack([image.values for image in images]))
        found = self.image_networks(pixels, [image.geometry.width / image.geometry.height for image in images])
        state = self.net.encode_features(self.net.describe(found, pixels), self.net.patches.mean(found.classes))
        # Cloned, so that an image of the batch does not keep all the others in memory.
        return [
            CompactImage(
                ImageState.of_tensors([tensor[i : i + 1].clone() for tensor in state.tensors()], len(state.layers)),
                image.geometry,
                None if image.detail is None else Legible(image.detail),
            )
            for i, image in enumerate(images)
        ]

    def tokenize(self, text: str) -> TokenizedText:
        """See `Texts.tokenize`."""
        return self.texts.tokenize(text)

    def _foreign(self, text: str) -> str | None:
        return self.texts.foreign(text)

    def run(self, task: Task, items: Sequence[Item]) -> list[Output | ItemError]:
        """As `Family.run`; questions about text in the image are answered by reading it, where that is installed, and
        answers come in the language that was asked for."""
        if task == "answer" and any(self.words.translates(item) for item in items):
            wide = [replace(item, top_k=self.words.top_k(item)) for item in items]
            return [self.words.answer(output, item) for output, item in zip(self._answer(wide), items, strict=True)]
        return self._answer(items) if task == "answer" else super().run(task, items)

    def _answer(self, items: Sequence[Item]) -> list[Output | ItemError]:
        """Answers in English."""
        outputs = super().run("answer", items)
        if self.reading is not None:
            for index, (item, output) in enumerate(zip(items, outputs, strict=True)):
                if isinstance(output, Output) and isinstance(item.image, CompactImage):
                    looks = partial(self.look, item.image)
                    outputs[index] = self.reading.revise(output, item, item.image.legible, looks)
        return outputs

    def look(self, image: EncodedImage, question: str) -> NDArray[np.float32]:
        """Where the words of a question look ``[rows, columns]``: raw maps, mean over words and layers."""
        asked = Item(image, (question,), top_k=1)
        (output,) = self._run("answer", [asked], [[self.tokenize(question)]], self._resolve(MapRequest("raw")))
        return looks_of(output.texts[0])

    def score_masked(
        self, image: EncodedImage, text: str, keep: NDArray[np.bool_], answer: str
    ) -> NDArray[np.floating[Any]]:
        """The probability ``[n]`` of ``answer`` to ``text`` with attention limited to the patches that are True in
        ``keep`` ``[n, rows, columns]`` and to the null key. Used to measure what maps are worth.

        Raises TypeError for an image that another model encoded.
        """
        if not isinstance(image, CompactImage):
            raise TypeError("an image that this model did not encode")
        count = len(keep)
        patches = torch.from_numpy(keep.reshape(count, -1)).to(self.device)
        allowed = torch.cat([patches.new_ones(count, FIRST_PATCH), patches], 1)
        with torch.no_grad():
            states, mask = self.texts.states([self.tokenize(text)])
            states = states.expand(count, -1, -1)
            fused = self.net.fuse_states(states, mask.expand(count, -1), [(image.state, count)], patch_mask=allowed)
            choices, temperatures = self._space.choices(None), self._space.temperatures([text])
            logits = self._space.settled(logits_of(fused.vector, choices, temperatures), [text] * count, choices)
            probabilities = logits.softmax(-1)[:, self._space.index[answer]]
        result: NDArray[np.floating[Any]] = probabilities.cpu().numpy()
        return result

    def save(self, folder: Path) -> None:
        """Write the model's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_small(self.net.state_dict(), folder / "model.safetensors")
        (folder / FITTED).unlink(missing_ok=True)
        config = json.dumps({"family": "compact", **asdict(self.net.config)}, indent=1)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")
        (folder / "vocabulary.txt").write_text("\n".join(self.vocabulary) + "\n", encoding="utf-8")
        (folder / "answers.txt").write_text("\n".join(self.answers) + "\n", encoding="utf-8")
        if self.detector is not None:
            weights = {f"detector.{name}": tensor for name, tensor in self.detector.state_dict().items()}
            save_small(weights, folder / image_networks.DETECTOR)
        if self.ranges is not None:
            image_networks.save_ranges(folder / image_networks.CALIBRATION, self.ranges)
        chinese.copy_files(self.folder, folder)

    @torch.no_grad()
    def _run(
        self, task: Task, items: Sequence[Item], texts: Sequence[Sequence[TokenizedText]], maps: MapRequest | None
    ) -> list[Output]:
        """Run checked items, all with the same map request, which is complete."""
        choices = {} if task == "match" else {c: self._space.choices(c) for c in {item.candidates for item in items}}
        asked = [
            Asked(
                item.image.state,  # type: ignore[attr-defined]
                len(item.texts),
                choices.get(item.candidates),
                self._space.temperatures(item.texts),
                self._space.raised(item.texts),
            )
            for item in items
        ]
        runtime = self.questions if self._kernel == "auto" else None
        found = Passes(self.net, self.texts, runtime, self._graphs)(
            [text for group in texts for text in group], asked, maps
        )
        info = (
            None if maps is None or maps.kind is None else MapInfo(maps.kind, maps.layers or (), heads=maps.heads or ())
        )
        outputs, start = [], 0
        for item, group, one, logits in zip(items, texts, asked, found.logits, strict=True):
            part = slice(start, start := start + one.rows)
            if one.choices is None or logits is None:
                results = self._space.match(found.fused.fit[part], item)
            else:
                results = self._space.rank(logits, item, one.choices)
            results = [replace(result, token_count=len(text.ids)) for result, text in zip(results, group, strict=True)]
            shown: Sequence[TextOutput] = tuple(results)
            if found.rows is not None and info is not None:
                shown = self._with_maps(item, group, results, found.rows.every[part], info.kind)
            outputs.append(Output(shown, info))
        return outputs

    def _with_maps(
        self,
        item: Item,
        texts: Sequence[TokenizedText],
        results: Sequence[TextOutput],
        rows: torch.Tensor,
        kind: MapKind,
    ) -> LaterTexts:
        """The results with tokens, words and maps; ``rows``: see `MapRows`."""
        total = None if kind == "raw" else 1.0
        return LaterTexts(
            [
                partial(
                    with_maps,
                    *(result, text, tokens.texts, tokens.spans, tokens.words),
                    *(own, item.image.geometry, FIRST_PATCH, total),
                )
                for result, text, tokens, own in zip(
                    results, item.texts, texts, rows.float().cpu().numpy(), strict=True
                )
            ]
        )


def load(
    folder: Path = EMBEDDED, *, id: str | None = None, device: torch.device | str = "cpu", dtype: str = "auto"
) -> CompactModel:
    """Load a model's folder. ``dtype``: see `model.compact.image_networks.choose`. Raises FileNotFoundError or
    ValueError, with a message for the operator, where it is none, or not a whole one."""
    files = [folder / name for name in ("config.json", "model.safetensors", "vocabulary.txt", "answers.txt")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no whole compact model: it lacks {', '.join(missing)}")
    try:
        values = json.loads(files[0].read_text(encoding="utf-8"))
        if values.pop("family", None) != "compact":
            raise ValueError("its config.json does not say so")
        vocabulary, answers = (_read_lines(file) for file in files[2:])
        answers = ["no one" if answer == "no 1" else answer for answer in answers]  # the challenge's script wrote that
        with Uninitialised():
            net = CompactNet(CompactConfig(**values), vocabulary=len(vocabulary), answers=len(answers))
        tensors, fitted = load_fitted(files[1])
        net.load_state_dict(tensors, assign=True)
        ranges = image_networks.load_ranges(folder / image_networks.CALIBRATION)
        file, variant = folder / image_networks.DETECTOR, net.config.detector
        detector = image_networks.load_detector(file, variant) if variant else None
        table = load_table(folder)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(f"{folder} does not hold a compact model: {error}") from error
    if ranges is not None:
        files.append(folder / image_networks.CALIBRATION)
    if detector is not None:
        files.append(file)
    files += fitted
    # What knows no image reads none: it tells how far questions alone go.
    reading = None if net.config.blind else Reading(load_reader(torch.get_num_threads()), answers)
    revision = revision_of(files)
    if table is not None and table.revision.partition("+")[0] != revision:
        logger.warning("%s: measured on other weights (%s), so it is not used", folder / RELIABILITY, table.revision)
        table = None
    if added := chinese.files_in(folder):
        revision += "+zh." + revision_of(added).removeprefix("sha256:")[:8]
    return CompactModel(
        net,
        vocabulary,
        answers,
        id=id or folder.name,
        revision=revision,
        device=device,
        detector=detector,
        ranges=ranges,
        dtype=dtype,
        reading=reading,
        reliability=table.bands if table else (),
        folder=folder,
    )


def _read_lines(file: Path) -> list[str]:
    """The lines as `CompactModel.save` wrote them; `str.splitlines` would also split at signs within them."""
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def tiny(*, seed: int = 0, device: torch.device | str = "cpu", dtype: str = "auto") -> CompactModel:
    """The same model at toy size with random weights: 64 px, a 4x4 grid, 8 answers. For tests."""
    net, detector, vocabulary, answers = tiny_parts(seed)
    ranges = _TINY_RANGES.get(seed) if dtype in ("auto", "int8") else None
    if dtype in ("auto", "int8") and ranges is None and image_networks.has_runtime():
        from model.compact.calibration import measure_ranges

        noise = np.random.default_rng(seed).integers(0, 256, (4, net.config.pixels, net.config.pixels, 3), np.uint8)
        ranges = _TINY_RANGES[seed] = measure_ranges(net.vision, detector, net.config.size, noise)
    return CompactModel(
        net,
        vocabulary,
        answers,
        id="tiny",
        revision=f"seed:{seed}",
        device=device,
        detector=detector,
        ranges=ranges,
        dtype=dtype,
    )
