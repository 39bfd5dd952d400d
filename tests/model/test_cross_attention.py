"""The cross-attention module against the formula, with its maps, masks, cached keys and values, and errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from model import cross_attention
from model.cross_attention import CrossAttention, KeysValues, project_all, set_kernel


def formula(layer: CrossAttention, q: Tensor, kv: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and head-mean map in float64, head by head, with masked patches cut out."""

    def linear(m: nn.Linear, x: Tensor) -> Tensor:
        y = x @ m.weight.double().T
        return y if m.bias is None else y + m.bias.double()

    def norm(m: nn.RMSNorm | None, x: Tensor) -> Tensor:
        return x if m is None else x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * m.weight.double()

    outputs, maps = [], []
    for b in range(q.shape[0]):
        keep = torch.ones(kv.shape[1], dtype=torch.bool) if mask is None else mask[b]
        map_ = torch.zeros(q.shape[1], kv.shape[1]).double()
        if not keep.any():
            outputs.append(torch.zeros_like(q[b]).double())
            maps.append(map_)
            continue
        x, y = q[b].double(), kv[b, keep].double()
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * layer.head_dim, (h + 1) * layer.head_dim)
            g = h // (layer.num_heads // layer.num_kv_heads)
            shared = slice(g * layer.head_dim, (g + 1) * layer.head_dim)
            Q, K, V = linear(layer.wq, x)[:, part], linear(layer.wk, y)[:, shared], linear(layer.wv, y)[:, shared]
            Q, K = norm(layer.q_norm, Q), norm(layer.k_norm, K)
            P = (Q @ K.T / layer.head_dim**0.5).softmax(-1)
            map_[:, keep] += P / layer.num_heads
            heads.append(P @ V)
        outputs.append(linear(layer.o, torch.cat(heads, -1)))
        maps.append(map_)
    return torch.stack(outputs), torch.stack(maps)


@st.composite
def modules(draw: st.DrawFn) -> tuple[CrossAttention, Tensor, Tensor, Tensor | None]:
    torch.manual_seed(draw(st.integers(0, 10_000)))
    heads, key_heads = draw(st.sampled_from(((1, 1), (2, 2), (3, 3), (4, 2), (3, 1))))
    dim_q, dim_kv = heads * draw(st.sampled_from((1, 4, 10))), draw(st.sampled_from((1, 6, 24)))
    head_dim = draw(st.sampled_from((None, 8)))
    B, Tq, Tk = draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(1, 30))
    mask = None
    if draw(st.booleans()):
        mask = torch.arange(Tk)[None] < torch.randint(0, Tk + 1, (B, 1))  # ragged; 0 masks an image whole
    options = {"bias": draw(st.booleans()), "head_dim": head_dim, "qk_norm": draw(st.booleans())}
    layer = CrossAttention(dim_q, dim_kv, heads, num_kv_heads=key_heads, **options)
    for norm in (layer.q_norm, layer.k_norm):
        if norm is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return layer, torch.randn(B, Tq, dim_q), torch.randn(B, Tk, dim_kv), mask


@given(case=modules(), grad=st.booleans())
@settings(max_examples=80, deadline=None)
def test_equals_the_formula_with_values_and_elsewhere_summing_to_one(case, grad: bool) -> None:
    layer, q, kv, mask = case
    with torch.set_grad_enabled(grad):
        output, map_ = layer(q, kv, mask=mask, need_map=True)
        plain, no_map = layer(q, kv, mask=mask)
    want_output, want_map = formula(layer, q, kv, mask)
    assert_close(output.double(), want_output, atol=1e-5, rtol=0)
    assert_close(map_.double(), want_map, atol=1e-6, rtol=0)
    assert_close(plain, output)
    assert no_map is None
    assert (map_ >= 0).all()
    elsewhere = 1 - map_.sum(-1)
    dead = torch.zeros(q.shape[0], dtype=torch.bool) if mask is None else ~mask.any(-1)
    assert_close(elsewhere, dead.float()[:, None].expand_as(elsewhere), atol=1e-5, rtol=0)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(4, 3, 2).double()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    q, kv = torch.randn(2, 2, 4).double().requires_grad_(), torch.randn(2, 3, 3).double().requires_grad_()
    inputs = (q, kv, *layer.parameters())
    assert torch.autograd.gradcheck(lambda q, kv, *_: layer(q, kv, mask=mask, need_map=True), inputs)


def test_equals_torch_multihead_attention() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(12, 20, 3)
    theirs = nn.MultiheadAttention(12, 3, kdim=20, vdim=20, batch_first=True)
    with torch.no_grad():
        for ours, weight in zip((layer.wq, layer.wk, layer.wv), ("q", "k", "v"), strict=True):
            getattr(theirs, f"{weight}_proj_weight").copy_(ours.weight)
        theirs.in_proj_bias.copy_(torch.cat([layer.wq.bias, layer.wk.bias, layer.wv.bias]))
        theirs.out_proj.load_state_dict(layer.o.state_dict())
    q, kv = torch.randn(2, 5, 12), torch.randn(2, 7, 20)
    mask = torch.arange(7)[None] < torch.tensor([[7], [4]])
    output, map_ = layer(q, kv, mask=mask, need_map=True)
    want, want_map = theirs(q, kv, kv, key_padding_mask=~mask)
    assert_close(output, want, atol=1e-6, rtol=0)
    assert_close(map_, want_map, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(2, 1, 5, 7), (2, 3, 5, 7), (3, 5, 7), (5, 7), (7,)])
def test_float_masks_of_every_rank(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(12, 20, 3)
    q, kv = torch.randn(2, 5, 12), torch.randn(2, 7, 20)
    mask = torch.randn(shape)
    if len(shape) > 1:
        mask[..., 0, :] = -torch.inf
    output, map_ = layer(q, kv, mask=mask, need_map=True)
    full, full_map = layer(q, kv, mask=mask.expand(2, 3, 5, 7), need_map=True)
    assert_close(output, full, atol=1e-6, rtol=0)
    assert_close(map_, full_map, atol=1e-6, rtol=0)
    if len(shape) > 1:
        assert (output[:, 0] == 0).all()
        assert (map_[:, 0] == 0).all()
        assert (output[:, 1:] != 0).all()


def test_projected_keys_and_values_give_the_same() -> None:
    torch.manual_seed(0)
    layers = [CrossAttention(12, 20, heads) for heads in (1, 2, 3)]
    q, kv = torch.randn(2, 5, 12), torch.randn(2, 7, 20)
    for layer, joint in zip(layers, project_all(layers, kv), strict=True):
        alone = layer.project(kv)
        assert alone.keys.shape == (2, layer.num_heads, 7, layer.head_dim)
        want = layer(q, kv, need_map=True)
        for keys_values in (alone, joint):
            assert isinstance(keys_values, KeysValues)
            for a, b in zip(layer(q, keys_values, need_map=True), want, strict=True):
                assert_close(a, b, atol=1e-6, rtol=0)


def test_project_all_passes_gradients_and_takes_layers_without_bias() -> None:
    layers = [CrossAttention(4, 6, 2, bias=False) for _ in range(2)]
    kv = torch.randn(1, 3, 6)
    sum(part.square().sum() for pair in project_all(layers, kv) for part in pair).backward()
    joint = [layer.wk.weight.grad for layer in layers]
    for layer, gradient in zip(layers, joint, strict=True):
        layer.zero_grad()
        layer.project(kv).keys.square().sum().backward()
        assert_close(layer.wk.weight.grad, gradient)
    assert project_all([], kv) == []
    with pytest.raises(ValueError, match=r"\[batch, patches, 5\]"):
        project_all([*layers, CrossAttention(4, 5, 2)], kv)
    with pytest.raises(ValueError, match="bias"):
        project_all([*layers, CrossAttention(4, 6, 2)], kv)


def test_set_kernel_reaches_every_layer() -> None:
    model = nn.Sequential(CrossAttention(4, 4, 2), nn.ModuleList([CrossAttention(4, 4, 2)]), nn.Linear(4, 4))
    set_kernel(model, "reference")
    assert [m.kernel for m in model.modules() if isinstance(m, CrossAttention)] == ["reference", "reference"]
    with pytest.raises(ValueError, match="unknown kernel"):
        set_kernel(model, "fastest")
    set_kernel(model, "blocked")
    with pytest.raises(RuntimeError, match="no gradient"):
        model[0](torch.randn(1, 2, 4), torch.randn(1, 3, 4))


def test_dim_q_must_divide() -> None:
    with pytest.raises(ValueError, match="dim_q = 10 cannot be split into 3 heads"):
        CrossAttention(10, 8, 3)
    with pytest.raises(ValueError, match="0 heads"):
        CrossAttention(10, 8, 0)


@pytest.mark.parametrize(
    ("q", "kv", "mask", "message"),
    [
        ((5, 12), (2, 7, 20), None, r"q must be \[batch, tokens, 12\]"),
        ((2, 5, 11), (2, 7, 20), None, r"q must be \[batch, tokens, 12\]"),
        ((2, 5, 12), (7, 20), None, r"kv must be \[batch, patches, 20\]"),
        ((2, 5, 12), (2, 7, 12), None, r"kv must be \[batch, patches, 20\]"),
        ((2, 5, 12), (3, 7, 20), None, "q has batch 2, kv has batch 3"),
        ((2, 5, 12), (2, 7, 20), (2, 6), "bool mask"),
        ((2, 5, 12), (2, 7, 20), (3, 7), "bool mask"),
    ],
)
def test_inputs_that_do_not_fit(q, kv, mask, message: str) -> None:
    layer = CrossAttention(12, 20, 3)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(q), torch.zeros(kv), mask=None if mask is None else torch.ones(mask, dtype=torch.bool))


def test_names_of_the_parameters() -> None:
    names = {name for name, _ in CrossAttention(4, 6, 2).named_parameters()}
    assert names == {f"{linear}.{part}" for linear in ("wq", "wk", "wv", "o") for part in ("weight", "bias")}


@torch.no_grad()
def test_the_lines_in_the_docstring_are_what_it_computes() -> None:
    """The indented lines of the module's docstring, run as they stand."""
    lines = [line.strip() for line in (cross_attention.__doc__ or "").splitlines() if line.startswith("    ")]
    code = "\n".join(line for line in lines if not line.startswith("Attention("))
    layer, q, kv = CrossAttention(12, 6, 3), torch.randn(2, 4, 12), torch.randn(2, 5, 6)
    queries = layer.wq(q).view(2, 4, 3, 4).transpose(1, 2)
    names = {"q": queries, "k": layer.project(kv).keys, "v": layer.project(kv).values, "o": layer.o, "head_dim": 4}
    exec(code, names)  # noqa: S102
    output, map_ = layer(q, kv, need_map=True)
    assert_close(names["output"], output)
    assert_close(names["probabilities"].mean(1), map_)


@pytest.mark.parametrize("key_heads", [0, 3, 8])
def test_heads_that_cannot_be_shared_out_are_refused(key_heads: int) -> None:
    with pytest.raises(ValueError, match=f"4 query heads cannot be shared out over {key_heads} key heads"):
        CrossAttention(8, 6, 4, num_kv_heads=key_heads)


@torch.no_grad()
def test_layers_with_grouped_keys_and_norms_are_projected_together_as_each_alone() -> None:
    torch.manual_seed(0)
    layers = [CrossAttention(16, 6, 4, num_kv_heads=n, qk_norm=norm) for n, norm in ((2, True), (1, False), (4, True))]
    for layer in layers:
        if layer.k_norm is not None:
            nn.init.uniform_(layer.k_norm.weight, 0.5, 1.5)
    kv = torch.randn(2, 5, 6)
    for layer, together in zip(layers, project_all(layers, kv), strict=True):
        alone = layer.project(kv)
        assert together.keys.shape == (2, layer.num_kv_heads, 5, 4)
        assert_close(together.keys, alone.keys)
        assert_close(together.values, alone.values)
