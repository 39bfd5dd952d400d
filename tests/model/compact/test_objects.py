"""What the detector and the colours say, against small cases that are known by hand."""

import itertools

import numpy as np
import torch

from model.compact.colours import COLOURS, colour_shares
from model.compact.objects import COUNTS, SLOTS, _count, best_objects, cover


def test_colours_of_plain_squares() -> None:
    painted = {"red": (220, 20, 30), "green": (30, 150, 40), "blue": (30, 60, 200), "yellow": (245, 225, 40),
               "white": (250, 250, 250), "black": (10, 10, 10), "gray": (128, 128, 128), "orange": (250, 140, 20),
               "purple": (120, 30, 160), "pink": (250, 170, 190), "brown": (110, 70, 35)}  # fmt: skip
    assert set(painted) == set(COLOURS)
    for name, rgb in painted.items():
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:4, 4:] = rgb
        shares = colour_shares(pixels, 2)
        assert shares.shape == (2, 2, 11)
        assert shares[0, 1, COLOURS.index(name)] == 1, name
        assert np.allclose(shares.sum(-1), 1)
        assert shares[1, 0, COLOURS.index("black")] == 1


def test_a_box_covers_cells_by_their_share() -> None:
    found = cover(torch.tensor([[0.25, 0.0, 1.0, 0.5]]), 2)
    assert torch.allclose(found, torch.tensor([[0.5, 1.0, 0.0, 0.0]]))


def test_of_boxes_that_overlap_the_best_of_a_class_is_kept() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.6, 0.6, 0.9, 0.9], [0.1, 0.1, 0.5, 0.5]])
    scores = torch.zeros(4, 80)
    scores[0, 16], scores[1, 16], scores[2, 16], scores[3, 2] = 0.6, 0.9, 0.5, 0.3
    objects = best_objects(scores, boxes)
    assert objects.shape == (SLOTS, 6)
    assert objects[:3, 0].tolist() == [16, 16, 2], "another class may lie at the same place"
    assert torch.allclose(objects[:4, 1], torch.tensor([0.9, 0.5, 0.3, 0.0]))
    assert torch.allclose(objects[0, 2:], boxes[1])


def test_counts_are_those_of_independent_draws() -> None:
    chance = torch.tensor([0.2, 0.9, 0.5])
    expected = torch.zeros(COUNTS)
    for drawn in itertools.product((0, 1), repeat=3):
        expected[sum(drawn)] += float(np.prod([c if d else 1 - c for c, d in zip(chance.tolist(), drawn, strict=True)]))
    assert torch.allclose(_count(chance[None])[0], expected, atol=1e-6)
    many = _count(torch.ones(1, 15))[0]
    assert many[-1] == 1, "10 stands for all above"
