"""Cross-attention with its map, against what else gives (a part of) it: ``python -m benchmarks.kernel``.

On a CUDA device where there is one, else on the CPU (``--device`` chooses). Every contender is checked against the
float32 formula in the same run before its time is printed. Contenders take turns, in another order each time, and each
runs twice a turn, of which the second counts: so a busy moment hits them all alike, and nobody pays for what the one
before left in the caches. Ratios are medians over the turns. Prints the tables and appends them to
``benchmarks/results/kernel.md``.

* *SDPA, no map*: ``scaled_dot_product_attention``, which gives the output alone: the mark to measure a map's cost by.
* *SDPA + map*: the same, and the map from scores computed again, as users of it do.
* *eager*: softmax written out. *MultiheadAttention*: ``nn.MultiheadAttention(need_weights=True)``, with projections.
* *ours*: output and map by the kernel that ``auto`` takes; on CUDA each design by itself as well.
* *floor* (CUDA): the time that the memory bus needs to move inputs, output and map once; *reached*: over that taken.

On CUDA, attention and training are timed by device events, with the L2 cache flushed and the launches ahead of the
device: the kernels alone. A module and a fusion stack of one image are timed by the clock, from the call until the
device is done: what one question waits for.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.pop("OMP_WAIT_POLICY", None)  # threads that sleep between operations would measure the scheduler

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import append_result, describe_machine, load_average, table
from model.compact.fusion import Fusion
from model.cross_attention import CrossAttention, KeysValues, project_all, set_kernel
from model.kernels import cross_attention
from model.kernels.graphs import GraphRunner
from model.rows import Source

Action = Callable[[], Any]
Shape = tuple[int, int, int, int, int]  # B, H, Tq, Tk, d

CPU_SHAPES: list[Shape] = [
    (1, 8, 12, 401, 32),  # the default model, one question
    (1, 8, 96, 401, 32),  # ... eight questions side by side
    (1, 12, 12, 577, 64),
    (8, 12, 35, 577, 64),
    (32, 12, 12, 197, 64),
    (32, 12, 35, 577, 64),
    (8, 12, 35, 901, 64),
    (64, 12, 35, 901, 64),
    (256, 12, 35, 577, 64),
]
CUDA_SHAPES: list[Shape] = [
    (1, 12, 12, 577, 64),
    (8, 12, 35, 577, 64),
    (32, 12, 12, 197, 64),
    (32, 12, 35, 577, 64),
    (64, 12, 35, 901, 64),
    (256, 12, 35, 577, 64),
]
TOY_SHAPES: list[Shape] = [(1, 2, 5, 40, 16), (2, 2, 3, 20, 16)]  # for Triton's interpreter and for sanitizers
BANDWIDTH = {"H100": 3.0e12, "H200": 4.3e12, "A100": 1.8e12}  # bytes a second that a copy reaches
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def eager(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return probabilities @ v, probabilities.float().mean(1)


def sdpa_and_map(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return F.scaled_dot_product_attention(q, k, v), eager(q, k, v)[1]


class Stopwatch:
    """Seconds that actions take in turns, for ``seconds`` a comparison."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.flush = torch.empty(1 << 30, dtype=torch.uint8, device=device) if device.type == "cuda" else None

    def by_clock(self, action: Action) -> float:
        """From the call to the result, launches included."""
        self.wait()
        start = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - start

    def by_events(self, action: Action) -> float:
        """On CUDA the time on the device alone, which first overwrites its cache while the launches queue up."""
        if self.flush is None:
            return self.by_clock(action)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.wait()
        for _ in range(8):  # some milliseconds: launches of a whole training step are ahead of the device then
            self.flush.zero_()
        start.record()
        action()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.flush is not None:
            torch.cuda.synchronize(self.device)

    def compare(self, actions: dict[str, Action], *, latency: bool = False) -> dict[str, list[float]]:
        """Times of each action, one a turn; ``latency``: by the clock on CUDA too."""
        once = self.by_clock if latency else self.by_events
        for action in actions.values():
            for _ in range(3):
                action()
        times: dict[str, list[float]] = {name: [] for name in actions}
        names, deadline = list(actions), time.perf_counter() + self.seconds
        least = 7 if self.seconds else 1
        while time.perf_counter() < deadline or len(times[names[0]]) < least:
            for name in random.sample(names, len(names)):
                actions[name]()
                times[name].append(once(actions[name]))
        return times


def show(seconds: Sequence[float]) -> str:
    return f"{1e6 * statistics.median(seconds):.0f} ({1e6 * min(seconds):.0f})"


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """The median over the turns."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def check(name: str, got: Any, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Stop where a contender's output or map is wrong; first and last item, by the formula in float32."""
    output, map_ = got if isinstance(got, tuple) else (got, None)
    for b in {0, len(q) - 1}:
        want, want_map = eager(*(x[b : b + 1].float().cpu() for x in (q, k, v)))
        tolerance = TOLERANCE[q.dtype]
        torch.testing.assert_close(output[b : b + 1].float().cpu(), want, atol=tolerance, rtol=tolerance, msg=name)
        if map_ is not None:
            torch.testing.assert_close(map_[b : b + 1].float().cpu(), want_map, atol=tolerance / 10, rtol=0, msg=name)


def contenders(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Action]:
    def ours() -> tuple[Tensor, Tensor]:
        return cross_attention(q, k, v, need_map=True)[:2]

    actions: dict[str, Action] = {
        "SDPA, no map": lambda: F.scaled_dot_product_attention(q, k, v),
        "SDPA + map": lambda: sdpa_and_map(q, k, v),
        "eager": lambda: eager(q, k, v),
        "ours": ours,
        "ours, no map": lambda: cross_attention(q, k, v).output,
    }
    if q.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from model.kernels import triton_forward

        def design(name: str) -> Action:
            return lambda: triton_forward.forward(
                q, k, v, None, None, scale=q.shape[-1] ** -0.5, need_map=True, design=name
            )[:2]

        actions |= {"one pass": design("one_pass"), "two passes": design("two_pass")}
    return actions


def peak_memory(action: Action) -> int:
    """Bytes that an action needs beyond what is there already."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reaches: known for some cards, else measured."""
    name = torch.cuda.get_device_name(device)
    known = next((value for card, value in BANDWIDTH.items() if card in name), None)
    if known is not None:
        return known
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target, watch = torch.empty_like(source), Stopwatch(device, 0.0)
    times = [watch.by_events(lambda: target.copy_(source)) for _ in range(9)]
    return 2 * source.nbytes / statistics.median(times[2:])


def attention_table(shapes: Sequence[Shape], dtype: torch.dtype, watch: Stopwatch) -> str:
    """Output and map, microseconds."""
    rows: list[list[str]] = []
    names: list[str] = []
    cuda = watch.device.type == "cuda"
    per_second = bandwidth(watch.device) if cuda else 0.0
    for B, H, Tq, Tk, d in shapes:
        q, k, v = (torch.randn(B, n, H, d, device=watch.device).to(dtype).transpose(1, 2) for n in (Tq, Tk, Tk))
        actions = contenders(q, k, v)
        with torch.no_grad():
            for name, action in actions.items():
                check(name, action(), q, k, v)
            times = watch.compare(actions)
        names = list(actions)
        row = [f"{B} x {H} heads, {Tq} x {Tk}, d {d}", *(show(times[name]) for name in names)]
        row += [f"{ratio(times, 'ours', 'SDPA, no map'):.2f}", f"{ratio(times, 'eager', 'ours'):.2f}"]
        if cuda:
            moved = 2 * q.element_size() * B * H * d * (Tq + Tk) + 4 * B * Tq * Tk
            floor = moved / per_second
            row += [f"{1e6 * floor:.1f}", f"{100 * floor / statistics.median(times['ours']):.0f}%"]
            with torch.no_grad():
                row += [f"{peak_memory(actions[name]) / 2**20:.0f}" for name in ("ours", "eager")]
        rows.append(row)
        print(" | ".join(row), file=sys.stderr, flush=True)
    head = [str(dtype).removeprefix("torch."), *names, "ours / SDPA", "eager / ours"]
    if cuda:
        head += [f"floor at {per_second / 1e12:.1f} TB/s", "reached", "MiB ours", "MiB eager"]
    return table(head, rows)


def module_table(dtype: torch.dtype, watch: Stopwatch) -> str:
    """The whole module at BLIP's width, one image, with a map: what keys and values from a cache win."""
    rows = [module_row(Tq, Tk, dtype, watch) for Tq, Tk in ((12, 577), (96, 577), (12, 257))]
    return table(["module, 768 wide", "MultiheadAttention", "uncached", "cached", "cached / uncached"], rows)


@torch.no_grad()
def module_row(Tq: int, Tk: int, dtype: torch.dtype, watch: Stopwatch) -> list[str]:
    layer = CrossAttention(768, 768, 12).to(watch.device, dtype).eval()
    theirs = nn.MultiheadAttention(768, 12, batch_first=True, device=watch.device, dtype=dtype).eval()
    for part, linear in zip(theirs.in_proj_weight.chunk(3), (layer.wq, layer.wk, layer.wv), strict=True):
        part.copy_(linear.weight)
    theirs.in_proj_bias.copy_(torch.cat([layer.wq.bias, layer.wk.bias, layer.wv.bias]))
    theirs.out_proj.load_state_dict(layer.o.state_dict())
    q, kv = (torch.randn(1, n, 768, device=watch.device, dtype=dtype) for n in (Tq, Tk))
    (cached,) = project_all([layer], kv)
    actions: dict[str, Action] = {
        "MultiheadAttention": lambda: theirs(q, kv, kv),
        "uncached": lambda: layer(q, kv, need_map=True),
        "cached": lambda: layer(q, cached, need_map=True),
    }
    want = theirs(q, kv, kv)
    for name, action in actions.items():
        for a, b in zip(action(), want, strict=True):
            torch.testing.assert_close(a.float(), b.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], msg=name)
    times = watch.compare(actions, latency=True)
    return [f"{Tq} x {Tk}", *(show(times[name]) for name in actions), f"{ratio(times, 'cached', 'uncached'):.3f}"]


def training_table(shapes: Sequence[Shape], dtype: torch.dtype, watch: Stopwatch) -> str:
    """Forward and backward, the loss on output and map (SDPA: on the output alone)."""
    rows = []
    for B, H, Tq, Tk, d in shapes:
        leaves = [torch.randn(B, H, n, d, device=watch.device, dtype=dtype, requires_grad=True) for n in (Tq, Tk, Tk)]
        weights = torch.randn(B, Tq, Tk, device=watch.device)

        def step(run: Callable[..., Any], leaves: list[Tensor] = leaves, weights: Tensor = weights) -> list[Tensor]:
            got = run(*leaves)
            output, map_ = got if isinstance(got, tuple) else (got, None)
            loss = output.float().square().sum() + (0 if map_ is None else (map_ * weights).sum())
            return list(torch.autograd.grad(loss, leaves))

        runs = {
            "SDPA, no map": lambda: step(F.scaled_dot_product_attention),
            "eager": lambda: step(eager),
            "ours": lambda: step(lambda q, k, v: cross_attention(q, k, v, need_map=True)[:2]),
        }
        for a, b in zip(runs["ours"](), runs["eager"](), strict=True):
            torch.testing.assert_close(a, b, atol=10 * TOLERANCE[dtype] * float(b.abs().max()), rtol=0)
        times = watch.compare(runs)
        rows.append([f"{B} x {H} heads, {Tq} x {Tk}, d {d}", *(show(times[name]) for name in runs)])
    return table(["forward and backward", *runs], rows)


def graph_table(dtype: torch.dtype, watch: Stopwatch) -> str:
    """A stack of fusion layers for one question with maps: eager attention, our kernel, our kernel in a CUDA graph."""
    sizes = ((4, 384, 6, 192, 256), (12, 768, 12, 768, 577))
    rows = [graph_row(*size, dtype, watch) for size in sizes]
    return table(["fusion stack, one question", "eager", "ours", "graph", "eager / graph"], rows)


@torch.no_grad()
def graph_row(
    layers: int, dim: int, heads: int, cross_dim: int, keys: int, dtype: torch.dtype, watch: Stopwatch
) -> list[str]:
    eager_stack = Fusion(layers, dim=dim, dim_kv=dim, num_heads=12, cross_heads=heads, cross_dim=cross_dim)
    eager_stack = eager_stack.to(watch.device).eval()
    stack = copy.deepcopy(eager_stack)
    set_kernel(eager_stack, "reference")
    x = torch.randn(1, 12, dim, device=watch.device)
    mask = torch.ones(1, 12, dtype=torch.bool, device=watch.device)
    patches = torch.randn(1, keys, dim, device=watch.device)

    def fuse_by(stack: Fusion) -> Callable[..., tuple[Tensor, ...]]:
        def fuse(x: Tensor, mask: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
            pairs = [KeysValues(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
            state, last, maps = stack(x, mask, [Source(pairs)], need_maps=True)
            return state, last, *maps

        return fuse

    def actions_on(x: Tensor, patches: Tensor) -> dict[str, Action]:
        flat = [part for pair in stack.project(patches) for part in pair]
        runner = GraphRunner(fuse_by(stack), cropped=range(2, 2 + layers), capture_at=1)
        runs = {"eager": fuse_by(eager_stack), "ours": fuse_by(stack), "graph": runner}
        return {name: lambda run=run: run(x, mask, *flat) for name, run in runs.items()}

    actions = actions_on(x, patches)  # in float32, where a difference cannot be rounding
    for name in ("ours", "graph"):
        for a, b in zip(actions[name](), actions["eager"](), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)
    for each in (eager_stack, stack):
        each.to(dtype)
    actions = actions_on(x.to(dtype), patches.to(dtype))
    for a, b in zip(actions["graph"](), actions["ours"](), strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype], msg="graph")
    times = watch.compare(actions, latency=True)
    return [
        f"{layers} layers, {dim} wide, 12 x {keys}",
        *(show(times[name]) for name in actions),
        f"{ratio(times, 'eager', 'graph'):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row of a table (default: 3)")
    parser.add_argument("--toy", action="store_true", help="attention alone, in small shapes: does it run at all?")
    parser.add_argument("--dry-run", action="store_true", help="print the tables without keeping them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    watch = Stopwatch(device, options.seconds)
    cuda = device.type == "cuda"
    if cuda and device.index is not None:
        torch.cuda.set_device(device)
    shapes = TOY_SHAPES if options.toy else CUDA_SHAPES if cuda else CPU_SHAPES
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if cuda else (torch.float32,)
    sections = [attention_table(shapes, dtype, watch) for dtype in dtypes]
    if not options.toy:
        sections.append(module_table(dtypes[0], watch))
    if cuda and not options.toy:
        sections += [training_table(shapes, dtypes[0], watch), graph_table(dtypes[0], watch)]
    where = torch.cuda.get_device_name() + ", " if cuda else f"{options.threads} threads, "
    command = " ".join(["python -m benchmarks.kernel", *sys.argv[1:]])
    if os.environ.get("TRITON_INTERPRET") == "1":
        where += "Triton's interpreter (its times say nothing about a GPU), "
    text = f"{where}{describe_machine()}, {load_average()}. `{command}`. Microseconds: median (fastest).\n\n"
    text += "\n".join(sections)
    print(text)
    if not options.dry_run:
        append_result("kernel", "Cross-attention kernels", text)


if __name__ == "__main__":
    main()
