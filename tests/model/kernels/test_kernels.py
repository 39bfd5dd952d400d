"""The reference and the blocked kernel against the float64 formula, and the choice between kernels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from model.kernels import KERNELS, attention_map, blocked, check_kernel, cross_attention
from tests.model.kernels.cases import MASKS, Case, cases, formula, make_case

CPU_KERNELS = ("reference", "blocked")


def run(case: Case, **options: object):
    return cross_attention(case.q, case.k, case.v, mask=case.mask, **options)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_equals_the_formula(kernel: str, case: Case) -> None:
    output, map_, lse = formula(case)
    got = run(case, need_map=True, need_lse=True, kernel=kernel)
    assert_close(got.output.double(), output, atol=1e-5, rtol=0)
    assert_close(got.map.double(), map_, atol=1e-6, rtol=0)
    assert_close(got.lse.double(), lse, atol=1e-5, rtol=0)
    assert got.output.dtype == got.map.dtype == torch.float32
    rows = got.map.sum(-1)
    seen = (lse > -torch.inf).float().mean(1)  # heads may differ in what they see
    assert_close(rows, seen.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_no_map_and_lse_unless_asked(kernel: str) -> None:
    got = run(make_case(), kernel=kernel)
    assert got.map is None
    assert got.lse is None


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("at_once", [0.5, 1, 2, 4, 5, 6])
def test_blocked_in_many_chunks(mask: str | None, at_once: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for so many of the six key heads at once; none is cut."""
    case = make_case(H=12, Hkv=6, Tq=13, Tk=11, mask=mask)
    whole = run(case, need_map=True, need_lse=True, kernel="reference")
    monkeypatch.setattr(blocked, "SCRATCH_ELEMENTS", int(2 * 13 * 11 * at_once))
    for a, b in zip(run(case, need_map=True, need_lse=True, kernel="blocked"), whole, strict=True):
        assert_close(a, b, atol=2e-6, rtol=1e-6)


@given(tokens=st.integers(1, 9), keys=st.integers(1, 40), heads=st.integers(1, 4), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_one_image_without_a_mask(tokens: int, keys: int, heads: int, seed: int) -> None:
    """The way that the blocked kernel goes for one question; `need_lse` takes the general one."""
    case = make_case(B=1, H=heads, Tq=tokens, Tk=keys, d=8, seed=seed)
    output, map_, _ = formula(case)
    found = [run(case, need_map=True, kernel=kernel) for kernel in ("auto", "blocked")]
    run(make_case(B=1, H=heads, Tq=tokens, Tk=keys, d=8, seed=seed + 1), need_map=True)  # must not change the others
    for got in found:
        assert got.lse is None
        assert got.output.shape == case.q.shape
        assert_close(got.output.double(), output, atol=1e-5, rtol=0)
        assert_close(got.map.double(), map_, atol=1e-6, rtol=0)
        assert_close(run(case).output, got.output)
        assert run(case).map is None


def test_threads_do_not_share_a_scratch() -> None:
    cases_ = [make_case(B=1, H=4, Tq=12, Tk=300, d=16, seed=seed) for seed in range(8)]
    expected = [run(case, need_map=True, kernel="reference") for case in cases_]

    def many(index: int) -> bool:
        for _ in range(30):
            got = run(cases_[index], need_map=True, kernel="blocked")
            for a, b in zip(got[:2], expected[index][:2], strict=True):
                assert_close(a, b, atol=1e-5, rtol=0)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many, range(8)))


def test_inference_mode_and_outside_of_it() -> None:
    case = make_case(B=1, Tq=3, Tk=9)
    with torch.inference_mode():
        inside = run(case, need_map=True)
    with torch.no_grad():
        outside = run(case, need_map=True)
    with torch.inference_mode():
        again = run(case, need_map=True)
    for got in (inside, again):
        assert_close(got.map, outside.map)
        assert_close(got.output, outside.output)


@pytest.mark.parametrize("images", [1, 2])
def test_torch_compile_takes_the_blocked_kernel_whole(images: int) -> None:
    case = make_case(B=images, Tq=3, Tk=9)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return cross_attention(q, k, v, need_map=True, kernel="blocked")[:2]

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for a, b in zip(compiled(case.q, case.k, case.v), attend(case.q, case.k, case.v), strict=True):
            assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_half_types_differ_by_rounding_alone(kernel: str, dtype: torch.dtype) -> None:
    case = make_case(Tq=6, Tk=50, mask="keys").to(dtype)
    output, map_, _ = formula(case)
    got = run(case, need_map=True, kernel=kernel)
    assert got.output.dtype == dtype
    assert got.map.dtype == torch.float32
    assert_close(got.output.double(), output, atol=torch.finfo(dtype).eps, rtol=torch.finfo(dtype).eps)
    assert_close(got.map.double(), map_, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_huge_scores_stay_finite(kernel: str) -> None:
    case = make_case(d=16, scale=50.0)  # scores of some 1e4
    assert (case.q @ case.k.transpose(-1, -2) / 4).abs().max() > 5e3
    got = run(case, need_map=True, kernel=kernel)
    assert got.output.isfinite().all()
    assert_close(got.map.sum(-1), torch.ones(2, 5))


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_an_item_alone_equals_it_in_a_batch(kernel: str) -> None:
    case = make_case(B=3, mask="keys")
    together = run(case, need_map=True, kernel=kernel)
    for b in range(3):
        one = run(Case(*(x[b : b + 1] for x in (case.q, case.k, case.v, case.mask))), need_map=True, kernel=kernel)
        assert_close(one.output[0], together.output[b], atol=1e-6, rtol=0)
        assert_close(one.map[0], together.map[b], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_questions_side_by_side_equal_questions_alone(kernel: str) -> None:
    case = make_case(B=1, Tq=9)
    together = run(case, need_map=True, kernel=kernel)
    for rows in (slice(0, 4), slice(4, 9)):
        one = run(Case(case.q[:, :, rows], case.k, case.v), need_map=True, kernel=kernel)
        assert_close(one.output, together.output[:, :, rows], atol=1e-6, rtol=0)
        assert_close(one.map, together.map[:, rows], atol=1e-6, rtol=0)


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e9])
@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_lowest_numbers_forbid_a_key(kernel: str, low: float) -> None:
    """As in transformers' masks. Beside such a number float32 keeps nothing of a score."""
    case = make_case(mask="bias")
    want = run(case, need_map=True, need_lse=True, kernel=kernel)
    low_mask = case.mask.masked_fill(case.mask == -torch.inf, low)
    got = run(Case(case.q, case.k, case.v, low_mask), need_map=True, need_lse=True, kernel=kernel)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    half = Case(case.q, case.k, case.v, low_mask.half().clamp_min(torch.finfo(torch.float16).min))
    assert (run(half, need_map=True, kernel=kernel).map[0, 0] == 0).all()


@pytest.mark.parametrize("mask", MASKS)
def test_gradcheck_through_output_and_map(mask: str | None) -> None:
    case = make_case(B=2, H=2, Hkv=1, Tq=2, Tk=3, d=2, mask=mask).to(torch.float64)
    leaves = tuple(x.requires_grad_() for x in (case.q, case.k, case.v))

    def run_all(*qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return cross_attention(*qkv, mask=case.mask, need_map=True)[:2]

    assert torch.autograd.gradcheck(run_all, leaves)


def test_a_float_mask_has_a_gradient() -> None:
    case = make_case(B=1, H=2, Tq=2, Tk=3, d=2).to(torch.float64)
    bias = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: run(Case(case.q, case.k, case.v, m), need_map=True)[:2], (bias,))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("columns", [None, slice(2, 5), torch.tensor([6, 0, 3])])
def test_attention_map_from_the_log_sum_exp(mask: str | None, columns: slice | torch.Tensor | None) -> None:
    case = make_case(H=4, Hkv=2, mask=mask)
    got = run(case, need_map=True, need_lse=True)
    want = got.map if columns is None else got.map[:, :, columns]
    assert_close(attention_map(case.q, case.k, got.lse, columns, mask=case.mask), want, atol=1e-6, rtol=0)


def test_auto_never_takes_the_kernel_without_a_gradient_where_one_is_needed() -> None:
    case = make_case()
    case.q.requires_grad_()
    run(case).output.sum().backward()
    assert case.q.grad is not None
    with torch.no_grad():
        assert not run(case).output.requires_grad


def test_blocked_refuses_to_lose_a_gradient() -> None:
    case = make_case()
    case.v.requires_grad_()
    with pytest.raises(RuntimeError, match="no gradient"):
        run(case, kernel="blocked")


def test_the_blocked_kernel_is_for_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="blocked kernel cannot run: its tensors must be on the CPU, not on meta"):
        run(make_case().to("meta"), kernel="blocked")
    with pytest.raises(RuntimeError, match="blocked kernel cannot run: its tensors must be on the CPU, not on cuda"):
        check_kernel("blocked", "cuda:0")


def test_unknown_kernel() -> None:
    with pytest.raises(ValueError, match=", ".join(KERNELS)):
        run(make_case(), kernel="flash")


T = torch.zeros


@pytest.mark.parametrize(
    ("q", "k", "v", "mask", "message"),
    [
        (T(2, 4, 8), T(2, 4, 8), T(2, 4, 8), None, "head-split"),
        (T(2, 4, 3, 8), T(1, 4, 5, 8), T(1, 4, 5, 8), None, "batch"),
        (T(1, 4, 3, 8), T(2, 4, 5, 8), T(2, 4, 5, 8), None, "batch"),
        (T(1, 4, 3, 8), T(1, 4, 5, 8), T(1, 4, 5, 6), None, "values"),
        (T(1, 4, 3, 8), T(1, 4, 5, 8), T(1, 4, 5, 8).double(), None, "values"),
        (T(2, 4, 3, 8), T(2, 4, 5, 6), T(2, 4, 5, 6), None, "head_dim"),
        (T(2, 4, 3, 8), T(2, 3, 5, 8), T(2, 3, 5, 8), None, "shared out"),
        (T(2, 4, 3, 8), T(2, 4, 0, 8), T(2, 4, 0, 8), None, "no keys"),
        (T(2, 4, 3, 8), T(2, 4, 5, 8), T(2, 4, 6, 8), None, "values"),
        (T(2, 4, 3, 8), T(2, 4, 5, 8).double(), T(2, 4, 5, 8).double(), None, "one dtype"),
        (T(2, 4, 3, 8).long(), T(2, 4, 5, 8).long(), T(2, 4, 5, 8).long(), None, "floating point"),
        (T(2, 4, 3, 8), T(2, 4, 5, 8), T(2, 4, 5, 8), T(2, 4).bool(), "bool mask"),
        (T(2, 4, 3, 8), T(2, 4, 5, 8), T(2, 4, 5, 8), T(2, 5).long(), "a mask is"),
        (T(2, 4, 3, 8), T(2, 4, 5, 8), T(2, 4, 5, 8), T(2, 5), "broadcast"),
        (T(2, 4, 3, 8), T(2, 4, 5, 8), T(2, 4, 5, 8), T(1, 2, 1, 3, 5), "broadcast"),
    ],
)
@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_inputs_that_do_not_fit(q, k, v, mask, message: str, kernel: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_attention(q, k, v, mask=mask, kernel=kernel)


def test_attention_map_wants_a_fitting_lse() -> None:
    case = make_case()
    with pytest.raises(ValueError, match="lse"):
        attention_map(case.q, case.k, torch.zeros(2, 4, 6))
