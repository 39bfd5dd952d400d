"""What a run takes over from other models, whole and in shares."""

import torch

from model.compact.model import tiny
from model.training.warm_start import take_over


def test_shares_of_two_models() -> None:
    net, one, other = tiny(seed=0), tiny(seed=1), tiny(seed=2)
    frozen = net.net.state_dict()["text.words.weight"].clone()
    take_over(net.net, net.answers, one)
    take_over(net.net, net.answers, other, 0.5)
    ours, a, b = (model.net.state_dict() for model in (net, one, other))
    for name in ("fusion.layers.0.cross.wq.weight", "head.read.weight"):
        assert name in ours
        torch.testing.assert_close(ours[name], (a[name] + b[name]) / 2)
    row = next(i for i, answer in enumerate(net.answers) if answer in one.answers and answer not in ("yes", "no"))
    rows = [model.answers.index(net.answers[row]) for model in (one, other)]
    mean = (a["head.answers"][rows[0]] + b["head.answers"][rows[1]]) / 2
    torch.testing.assert_close(ours["head.answers"][row], mean)
    assert torch.equal(ours["text.words.weight"], frozen)
