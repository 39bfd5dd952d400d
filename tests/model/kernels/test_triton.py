"""The Triton kernels against the float64 formula: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.testing import assert_close

from model.cross_attention import CrossAttention, set_kernel
from model.kernels import attention_map, check_kernel, cross_attention
from model.kernels.inputs import split_mask
from tests.model.kernels.cases import MASKS, Case, cases, formula, make_case

pytest.importorskip("triton")
from model.kernels import triton_forward, triton_op

DEVICE = "cpu" if triton_op.INTERPRETED else "cuda"
DESIGNS = ("one_pass", "two_pass")
DTYPES = (torch.float32, torch.float16) + (() if triton_op.INTERPRETED else (torch.bfloat16,))
# Float32: exact to rounding. Half types: the inputs' rounding is the formula's too, that of the probabilities is not.
OUTPUT = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
GRADIENT = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device or TRITON_INTERPRET=1"
)
EXAMPLES = 4 if triton_op.INTERPRETED else 100
SIZES = [  # B, H, Hkv, Tq, Tk, d: the sizes of published models and their edges; design; type
    ((1, 2, 2, 1, 1, 32), "one_pass", torch.float16),
    ((1, 1, 1, 64, 577, 64), "two_pass", torch.float16),
    ((1, 1, 1, 12, 577, 64), "one_pass", torch.float32),
    ((2, 2, 1, 12, 197, 80), "one_pass", torch.float16),
    ((1, 2, 1, 17, 70, 96), "two_pass", torch.float32),
    ((1, 1, 1, 3, 4096, 32), "one_pass", torch.float16),
    ((1, 2, 1, 33, 65, 128), "one_pass", torch.float32),
]
if not triton_op.INTERPRETED:
    SIZES = [(size, design, dtype) for size, _, _ in SIZES for design in DESIGNS for dtype in DTYPES]


def both(case: Case, design: str, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    """Output, map and log-sum-exp, by the design named."""
    key_mask, bias = split_mask(case.mask, case.q, case.k)
    scale = case.q.shape[-1] ** -0.5
    return triton_forward.forward(case.q, case.k, case.v, key_mask, bias, scale=scale, need_map=True, design=design)


def check(got: tuple[Tensor, Tensor, Tensor], case: Case) -> None:
    output, map_, lse = formula(case.to("cpu"))
    assert got[0].dtype == case.q.dtype
    assert got[1].dtype == got[2].dtype == torch.float32
    # float16 computes the scores from rounded inputs exactly, so maps agree closely there too
    assert_close(got[0].double().cpu(), output, atol=OUTPUT[case.q.dtype], rtol=OUTPUT[case.q.dtype])
    assert_close(got[1].double().cpu(), map_, atol=1e-6, rtol=0)
    assert_close(got[2].double().cpu(), lse, atol=3e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("design", DESIGNS)
@given(case=cases(dims=(16, 20, 40), queries=18, keys=70))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_equals_the_formula(design: str, dtype: torch.dtype, case: Case) -> None:
    case = case.to(dtype).to(DEVICE)
    check(both(case, design), case)


@pytest.mark.parametrize(("size", "design", "dtype"), SIZES)
def test_published_sizes(size: tuple[int, ...], design: str, dtype: torch.dtype) -> None:
    case = make_case(*size, mask="keys").to(dtype).to(DEVICE)
    check(both(case, design), case)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_one_pass_in_every_order(lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Map tiles come ``lag`` images after the heads they wait for; each piece is done once, whatever the lag."""
    case = make_case(B=3, H=2, Tq=33, Tk=34, mask="dead").to(DEVICE)
    pieces = 2 * 2 + 2 * 2  # heads and tiles of an image in float32 blocks of 32
    monkeypatch.setattr(triton_forward, "IN_FLIGHT", lag * pieces)
    check(both(case, "one_pass"), case)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_output_map_and_log_sum_exp(mask: str | None, dtype: torch.dtype) -> None:
    case = make_case(B=2, H=2, Hkv=1, Tq=17, Tk=18, d=24, mask=mask).to(dtype)
    exact = case.to(torch.float64)
    case = case.to(DEVICE)
    gradients = {}
    for name, c, kernel in (("exact", exact, "reference"), ("triton", case, "triton")):
        leaves = [x.detach().requires_grad_() for x in (c.q, c.k, c.v)]
        got = cross_attention(*leaves, mask=c.mask, need_map=True, need_lse=True, kernel=kernel)
        g = torch.Generator().manual_seed(1)
        lse = got.lse.masked_fill(got.lse.isinf(), 0.0)
        loss = sum((x * torch.randn(x.shape, generator=g).to(dtype).to(x)).sum() for x in (got.output, got.map, lse))
        gradients[name] = torch.autograd.grad(loss, leaves)
    for got_gradient, want in zip(gradients["triton"], gradients["exact"], strict=True):
        assert got_gradient.dtype == dtype
        tolerance = GRADIENT[dtype] * float(want.abs().max())
        assert_close(got_gradient.double().cpu(), want, atol=tolerance, rtol=0)


@pytest.mark.parametrize("part", ["output", "map", "lse"])
def test_the_gradient_of_one_result_alone(part: str) -> None:
    gradients = []
    for kernel in ("reference", "triton"):
        case = make_case(Tq=4, mask="keys").to(DEVICE)
        leaves = [x.requires_grad_() for x in (case.q, case.k, case.v)]
        got = cross_attention(*leaves, mask=case.mask, need_map=True, need_lse=True, kernel=kernel)
        gradients.append(torch.autograd.grad(getattr(got, part).square().sum(), leaves, allow_unused=True))
    for want, got_gradient in zip(*gradients, strict=True):
        assert_close(got_gradient, torch.zeros_like(got_gradient) if want is None else want, atol=1e-5, rtol=1e-5)


def test_constant_keys_and_values_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case().to(DEVICE)
    q = case.q.requires_grad_()
    monkeypatch.setattr(triton_op.triton_backward, "_keys_kernel", None)  # would fail if it were launched
    cross_attention(q, case.k, case.v, need_map=True, kernel="triton").output.sum().backward()
    want = case.q.detach().requires_grad_()
    cross_attention(want, case.k, case.v, kernel="reference").output.sum().backward()
    assert_close(q.grad, want.grad, atol=1e-5, rtol=1e-5)


def test_a_training_step_equals_autograds() -> None:
    """One step of Adam on a two-layer stack with a loss on outputs and maps, through the fused backward and through
    autograd of the formula."""
    stepped = []
    for kernel in ("reference", "triton"):
        torch.manual_seed(0)
        layers = nn.ModuleList(CrossAttention(32, 24, 2) for _ in range(2)).to(DEVICE)
        set_kernel(layers, kernel)
        optimizer = torch.optim.Adam(layers.parameters(), lr=1e-2)
        x, patches = torch.randn(2, 6, 32).to(DEVICE), torch.randn(2, 20, 24).to(DEVICE)
        mask = (torch.arange(20)[None] < torch.tensor([[20], [13]])).to(DEVICE)
        loss = torch.zeros((), device=DEVICE)
        for layer in layers:
            output, map_ = layer(x, patches, mask=mask, need_map=True)
            x = x + output
            loss = loss - map_[..., :4].sum(-1).clamp_min(1e-3).log().mean()
        loss = loss + x.square().mean()
        loss.backward()
        gradients = [p.grad.clone() for p in layers.parameters()]
        optimizer.step()
        stepped.append((loss.detach(), gradients, [p.detach().clone() for p in layers.parameters()]))
    (loss, gradients, _), (loss2, gradients2, _) = stepped
    assert_close(loss, loss2, atol=1e-6, rtol=1e-6)
    for a, b in zip(gradients, gradients2, strict=True):
        assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("design", DESIGNS)
def test_huge_scores_stay_finite(design: str) -> None:
    case = make_case(scale=60.0, mask="keys").to(DEVICE)
    assert (case.q @ case.k.transpose(-1, -2) / 4).abs().max() > 1e4
    output, map_, lse = both(case, design)
    assert output.isfinite().all()
    assert lse.isfinite().all()
    assert_close(map_.sum(-1), torch.ones_like(map_[..., 0]))


@pytest.mark.parametrize("design", DESIGNS)
def test_an_item_alone_equals_it_in_a_batch(design: str) -> None:
    case = make_case(B=3, H=2, Tq=18, Tk=70, mask="keys").to(DEVICE)
    together = both(case, design)
    for b in range(3):
        alone = both(Case(*(x[b : b + 1] for x in (case.q, case.k, case.v, case.mask))), design)
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_[b])


def test_strided_inputs() -> None:
    """Heads split from ``[B, T, H * d]``, keys of one layer out of a joint projection, a mask with a step."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 5, 4 * 16, generator=g).view(2, 5, 4, 16).transpose(1, 2)
    k, v = (x.view(2, 9, 4, 16).transpose(1, 2) for x in torch.randn(2, 9, 128, generator=g).split(64, -1))
    mask = (torch.rand(2, 18, generator=g) < 0.7)[:, ::2]
    for case in (Case(q, k, v, mask), Case(q.transpose(2, 3).contiguous().transpose(2, 3), k, v, mask)):
        check(both(case.to(DEVICE), "one_pass"), case)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("columns", [None, slice(2, 31), torch.tensor([6, 0, 3])])
def test_attention_map_from_the_log_sum_exp(mask: str | None, columns: slice | Tensor | None) -> None:
    case = make_case(H=4, Hkv=2, Tk=40, mask=mask).to(DEVICE)
    got = cross_attention(case.q, case.k, case.v, mask=case.mask, need_map=True, need_lse=True, kernel="reference")
    columns = columns.to(DEVICE) if isinstance(columns, Tensor) else columns
    want = got.map if columns is None else got.map[:, :, columns]
    map_ = attention_map(case.q, case.k, got.lse, columns, mask=case.mask, kernel="triton")
    assert_close(map_, want, atol=1e-6, rtol=0)


def test_head_weights() -> None:
    case = make_case(mask="keys").to(DEVICE)
    lse = cross_attention(case.q, case.k, case.v, mask=case.mask, need_lse=True).lse
    weights = torch.tensor([[0.0, 7.0], [2.0, 7.0], [-1.0, 7.0], [0.5, 7.0]], device=DEVICE)[:, 0]  # stride 2
    maps = {
        kernel: attention_map(case.q, case.k, lse, mask=case.mask, head_weights=weights, kernel=kernel)
        for kernel in ("reference", "triton")
    }
    assert_close(maps["triton"], maps["reference"], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="head_weights"):
        attention_map(case.q, case.k, lse, head_weights=weights[:3])


@pytest.mark.parametrize(("mask", "need_map"), [("keys", True), ("bias", False)])
def test_opcheck(mask: str | None, need_map: bool) -> None:
    case = make_case(B=2, H=2, Hkv=1, Tq=3, Tk=5, mask=mask).to(DEVICE)
    q, k, v = (x.requires_grad_() for x in (case.q, case.k, case.v))
    arguments = (q, k, v, *split_mask(case.mask, q, k), 0.25, need_map)
    torch.library.opcheck(torch.ops.crosslook.cross_attention.default, arguments)
    with torch.no_grad():
        out, map_, lse = torch.ops.crosslook.cross_attention(*arguments)
        backward = (torch.randn_like(out), torch.randn_like(map_) if need_map else None, None)
        backward += (q.detach(), k.detach(), v.detach(), out, lse, *arguments[3:5], 0.25)
        torch.library.opcheck(torch.ops.crosslook.cross_attention_backward.default, (*backward, need_map))


def test_torch_compile_takes_it_whole() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, 24, 2).to(DEVICE)
    layer.kernel = "triton"
    q, kv = torch.randn(2, 6, 32, device=DEVICE), torch.randn(2, 20, 24, device=DEVICE)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(q, kv, need_map=True), layer(q, kv, need_map=True), strict=True):
        assert_close(a, b, atol=1e-6, rtol=0)


def test_it_says_why_it_cannot_run() -> None:
    case = make_case().to(DEVICE)
    with pytest.raises(RuntimeError, match=r"and float32, not torch\.float64"):
        cross_attention(case.q.double(), case.k.double(), case.v.double(), kernel="triton")
    wide = torch.zeros(1, 1, 1, 160, device=DEVICE)
    with pytest.raises(RuntimeError, match="head sizes up to 128, not 160"):
        cross_attention(wide, wide, wide, kernel="triton")
    bias = torch.zeros(5, 7, device=DEVICE, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient for a float mask"):
        cross_attention(case.q, case.k, case.v, mask=bias, kernel="triton")
    with torch.no_grad():
        lse = cross_attention(case.q, case.k, case.v, mask=bias, need_lse=True, kernel="triton").lse
    with pytest.raises(RuntimeError, match="no gradient"):
        attention_map(case.q.requires_grad_(), case.k, lse, kernel="triton")
    if triton_op.INTERPRETED:
        half = case.q.detach().bfloat16()
        with pytest.raises(RuntimeError, match="wrong products in bfloat16"):
            cross_attention(half, half, half, kernel="triton")


def test_check_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in ("auto", "blocked", "reference"):
        check_kernel(kernel, "cpu")
    check_kernel("triton", DEVICE)
    with pytest.raises(ValueError, match="unknown kernel 'flash'"):
        check_kernel("flash", "cpu")
    monkeypatch.setattr(triton_op, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="must be on a CUDA device, not on cpu"):
        check_kernel("triton", "cpu")
    case = make_case()
    with pytest.raises(RuntimeError, match="must be on a CUDA device, not on cpu"):
        cross_attention(case.q, case.k, case.v, kernel="triton")
    monkeypatch.setattr("model.kernels.HAS_TRITON", False)
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        check_kernel("triton", DEVICE)


@pytest.mark.long
def test_they_compile_for_an_h100_within_its_registers_and_shared_memory() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-m", "benchmarks.kernel_resources"], env=environment, check=True, timeout=3600)


def test_one_pass_where_the_heads_fill_the_gpu() -> None:
    def design(B: int, Tq: int) -> str:
        return triton_forward.choose_design(torch.empty(B, 12, Tq, 64, dtype=torch.bfloat16, device="meta"))

    assert design(256, 35) == design(32, 12) == "one_pass"
    assert design(1, 12) == design(8, 12) == "two_pass"
