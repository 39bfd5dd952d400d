"""The default model's parts at toy size, with random weights: what most tests run on (`model.compact.model.tiny`)."""

from __future__ import annotations

import torch

from model.compact.detector import NanoDet
from model.compact.network import CompactConfig, CompactNet
from model.compact.text_encoder import SPECIAL_TOKENS


def tiny_parts(seed: int) -> tuple[CompactNet, NanoDet, list[str], list[str]]:
    """A network for 64 px and a 4x4 grid, its detector, its vocabulary and its 8 answers."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,'!-"
    words = "what is the color of cat dog how many are there where this a in on true does it show man people"
    vocabulary = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words.split()]
    config = CompactConfig(
        vision="tiny",
        size=64,
        detector="tiny",
        detector_size=96,
        dim=24,
        num_heads=2,
        text_layers=1,
        fusion_dim=24,
        fusion_heads=2,
        fusion_layers=2,
        cross_heads=2,
        cross_dim=24,
        patch_dim=16,
        meaning_dim=12,
        free_dim=4,
        match_dim=8,
        hues=True,
        matches=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        answers = ["yes", "no", "cat", "dog", "red", "blue", "1", "2"]
        net = CompactNet(config, vocabulary=len(vocabulary), answers=len(answers))
        net.head.mark_yes_no(answers)
        for module in net.vision.modules():  # as born, features would hardly differ from image to image
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        detector = NanoDet(config.detector)
        for layer in net.fusion.layers:  # louder than at birth, so that maps are not flat
            for linear in (layer.cross.wq, layer.cross.wk):  # type: ignore[union-attr]
                torch.nn.init.normal_(linear.weight, std=0.6)  # type: ignore[union-attr,arg-type]
    return net, detector, vocabulary, answers
