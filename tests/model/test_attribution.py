"""Gradient maps, rollout and composition against autograd and arithmetic, on any attention and with grouped keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.attribution import compose, gradient_map, record, rollout, score_gradient
from model.cross_attention import CrossAttention, KeysValues, set_kernel

B, TOKENS, KEYS, HEADS, DIM = 2, 3, 5, 4, 6


def close(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-5)


class SelfAttention(nn.Module):
    """An attention that is none of ours: queries and keys rotated after their projection, so tapped behind that."""

    def __init__(self, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.q, self.k, self.v = (nn.Linear(8, n * DIM) for n in (num_heads, num_kv_heads, num_kv_heads))
        self.queries, self.keys, self.values = nn.Identity(), nn.Identity(), nn.Identity()
        self.output = nn.Linear(num_heads * DIM, 8)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, 8]`` -> the same."""
        q, k, v = (part(x).unflatten(-1, (-1, DIM)) for part in (self.q, self.k, self.v))
        q, k, v = self.queries(q.roll(1, -1)), self.keys(k.roll(1, -1)), self.values(v)
        group = self.num_heads // self.num_kv_heads
        k, v = (part.repeat_interleave(group, 2) for part in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / DIM**0.5
        self.seen.append(scores)
        attended = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        out: Tensor = self.output(attended.flatten(2))
        return out


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_the_scores_is_autograds(key_heads: int, masked: bool) -> None:
    """With the result read from the attended values and from the head-mean map."""
    torch.manual_seed(0)
    q = torch.randn(B, TOKENS, HEADS * DIM, dtype=torch.float64)
    kv = KeysValues(*torch.randn(2, B, key_heads, KEYS, DIM, dtype=torch.float64))
    weight, read = torch.randn(B, TOKENS, HEADS * DIM).double(), torch.randn(B, TOKENS, KEYS).double()
    keep = torch.ones(B, KEYS, dtype=torch.bool)
    if masked:
        keep[1, 3:] = False
    group = HEADS // key_heads
    k, v = (x.repeat_interleave(group, 1) for x in kv)
    scores = (q.unflatten(-1, (HEADS, DIM)).transpose(1, 2) @ k.mT / DIM**0.5).requires_grad_()
    probabilities = scores.masked_fill(~keep[:, None, None], -torch.inf).softmax(-1)
    attended = (probabilities @ v).transpose(1, 2).flatten(2)
    (expected,) = torch.autograd.grad((attended * weight).sum() + (probabilities.mean(1) * read).sum(), scores)
    found = score_gradient(q, weight, kv, mask=keep if masked else None, map_gradient=read)
    close(found, expected)
    assert expected.abs().max() > 0.01
    only = score_gradient(q, weight, kv, mask=keep if masked else None)
    close(gradient_map(q, weight, kv, mask=keep if masked else None), only.relu().mean(1))


def test_a_scale_of_its_own_counts() -> None:
    q, kv = torch.randn(1, 2, 2 * DIM), KeysValues(*torch.randn(2, 1, 2, KEYS, DIM))
    gradient = torch.randn(1, 2, 2 * DIM)
    close(score_gradient(q, gradient, kv, scale=0.9), score_gradient(q * 0.9 * DIM**0.5, gradient, kv), 1e-5)


@pytest.mark.parametrize("numbers", [3 * DIM, 4 * DIM + 1])
def test_queries_that_do_not_fit_the_key_heads_are_refused(numbers: int) -> None:
    kv = KeysValues(*torch.randn(2, 1, 2, KEYS, DIM))
    with pytest.raises(ValueError, match=f"queries of {numbers} numbers cannot be shared out over 2 key heads of 6"):
        score_gradient(torch.randn(1, 2, numbers), torch.randn(1, 2, numbers), kv)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_any_attention_with_the_four_parts_is_recorded(heads: int, key_heads: int) -> None:
    """Self-attention with grouped, rotated keys: what was recorded gives the scores' own gradient."""
    torch.manual_seed(0)
    net, x = SelfAttention(heads, key_heads), torch.randn(B, TOKENS, 8)
    with record(net, [net]) as calls:
        result = net(net(x)).square().sum()
        attended = [call.attended for call in calls[0]]
        gradients = torch.autograd.grad(result, [*attended, *net.seen])
    assert len(calls[0]) == 2
    for call, gradient, expected in zip(calls[0], gradients[:2], gradients[2:], strict=True):
        assert call.kv is not None
        assert call.queries.shape == call.attended.shape == (B, TOKENS, heads * DIM)
        close(score_gradient(call.queries, gradient, call.kv), expected)
    net(x)
    assert len(calls[0]) == 2, "nothing is kept after the context"


@pytest.mark.parametrize("norm", [False, True])
def test_our_attention_is_recorded_with_keys_made_before_and_with_keys_of_its_own(norm: bool) -> None:
    """The queries are those that attention takes, behind their norm; keys that came ready are not the layer's own."""
    torch.manual_seed(0)
    layer = CrossAttention(8, 7, HEADS, head_dim=DIM, num_kv_heads=2, qk_norm=norm).requires_grad_(False)
    set_kernel(layer, "blocked")
    q, features = torch.randn(B, TOKENS, 8), torch.randn(B, KEYS, 7)
    ready = layer.project(features)
    with record(layer, [layer]) as calls:
        assert layer.kernel == "auto", "the blocked kernel has no gradient"
        first, _ = layer(q.requires_grad_(), ready)
        layer(q, features)
    assert layer.kernel == "blocked"
    one, other = calls[0]
    assert one.kv is None
    assert other.kv is not None
    close(other.kv, ready)
    queries = layer.wq(q).unflatten(-1, (HEADS, DIM))
    close(one.queries, (queries if layer.q_norm is None else layer.q_norm(queries)).flatten(2))
    close(layer.o(one.attended), first)
    assert one.attended.requires_grad


def test_rollout_of_two_layers_is_the_recursion_by_hand() -> None:
    own = torch.rand(2, 1, TOKENS, TOKENS).softmax(-1)
    cross = torch.rand(2, 1, TOKENS, KEYS).softmax(-1)
    first = 0.5 * cross[0]
    mixed = 0.5 * (first + own[1] @ first)
    close(rollout(list(own), list(cross)), 0.5 * (mixed + cross[1]))
    close(rollout(list(own), [cross[0], None]), mixed)
    assert (rollout(list(own), list(cross)).sum(-1) < 1).all()


def test_composed_maps_are_what_each_took_times_where_that_looked() -> None:
    answer, question = torch.rand(1, 2, TOKENS).softmax(-1), torch.rand(1, TOKENS, KEYS).softmax(-1)
    expected = sum(answer[0, 1, t] * question[0, t] for t in range(TOKENS))
    close(compose(answer, question)[0, 1], expected)
    close(compose(answer, question).sum(-1), torch.ones(1, 2))
    close(compose(question), question)
    with pytest.raises(ValueError, match="no steps"):
        compose()
