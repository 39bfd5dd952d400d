"""What the Triton kernels need on an H100, without having one: registers, stack (spills) and shared memory.

Run as ``python -m benchmarks.kernel_resources``. Triton brings NVIDIA's assembler, so this finds what the
interpreter cannot: code that the compiler refuses, tiles that overflow the registers or the shared memory.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # must be off before Triton is imported

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.kernels import triton_backward, triton_forward

TARGET = GPUTarget("cuda", 90, 32)
POINTER = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.uint8: "*u8",
    torch.int32: "*i32",
}
SHARED_LIMIT = 227 * 1024


class Compiler:
    """Stands in for a kernel: a launch compiles it as Triton would for these arguments, and prints what it needs."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grid = grid
        return self.launch

    def launch(self, *args: Any, num_warps: int, num_stages: int, **constants: Any) -> None:
        names = self.kernel.arg_names
        signature: dict[str, Any] = {}
        constexprs: dict[tuple[int, ...], Any] = {}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}

        def kind(value: Any, path: tuple[int, ...]) -> Any:
            if isinstance(value, tuple):
                return tuple(kind(part, (*path, i)) for i, part in enumerate(value))
            if isinstance(value, float):
                return "fp32"
            if isinstance(value, int) and value == 1:
                constexprs[path] = 1
                return "constexpr"
            if isinstance(value, Tensor) or value % 16 == 0:
                attributes[path] = [["tt.divisibility", 16]]
            if isinstance(value, Tensor):
                return POINTER[value.dtype]
            return "i32" if value < 2**31 else "i64"

        for i, (name, value) in enumerate(zip(names, args, strict=False)):
            signature[name] = kind(value, (i,))
        for name, value in constants.items():
            signature[name], constexprs[(names.index(name),)] = "constexpr", value
        signature = {name: signature[name] for name in names}
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constexprs, attrs=attributes)
        compiled = triton.compile(source, target=TARGET, options={"num_warps": num_warps, "num_stages": num_stages})
        registers, stack = resources(compiled.asm["cubin"])
        shared = compiled.metadata.shared
        print(f"  {self.kernel.__name__:16} grid {self.grid} registers {registers} stack {stack} shared {shared}")
        assert shared <= SHARED_LIMIT, "more shared memory than an H100 has"
        assert stack <= 256, "the registers overflow"


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes of stack a thread."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"REG:(\d+)", text)[1]), int(re.search(r"STACK:(\d+)", text)[1])


SHAPES = [  # B, H, Hkv, Tq, Tk, d: ours, BLIP's, and the edges
    (1, 6, 6, 12, 256, 64),
    (32, 12, 12, 12, 197, 64),
    (32, 12, 12, 35, 577, 64),
    (64, 12, 12, 35, 901, 64),
    (256, 12, 12, 35, 577, 64),
    (256, 12, 12, 12, 577, 64),
    (2, 32, 8, 64, 4096, 128),
    (2, 4, 4, 1, 1, 32),
    (200, 4, 4, 20, 130, 80),
    (200, 4, 2, 20, 300, 96),
]


def main() -> None:
    for module, names in (
        (triton_forward, ("_forward_kernel", "_map_kernel", "_one_pass_kernel")),
        (triton_backward, ("_queries_kernel", "_keys_kernel")),
    ):
        for name in names:
            setattr(module, name, Compiler(getattr(module, name)))
    quick = "--quick" in sys.argv  # some of the shapes: a minute rather than ten
    for dtype in (torch.bfloat16, torch.float16, torch.float32)[:: 2 if quick else 1]:
        for B, H, Hkv, Tq, Tk, d in SHAPES[::4] if quick else SHAPES:
            q, k = torch.empty(B, H, Tq, d, dtype=dtype), torch.empty(B, Hkv, Tk, d, dtype=dtype)
            key_mask, bias = torch.ones(B, Tk, dtype=torch.bool), torch.zeros(B, 1, Tq, Tk)
            for masks in ((key_mask, None), (None, bias)):
                print(
                    dtype, (B, H, Hkv, Tq, Tk, d), *triton_forward.tile_for(q), "bias" if masks[0] is None else "keys"
                )
                for design in ("one_pass", "two_pass"):
                    out, maps, lse = triton_forward.forward(q, k, k, *masks, scale=1.0, need_map=True, design=design)
                triton_backward.backward(out, maps, None, q, k, k, out, lse, *masks, scale=1.0)


if __name__ == "__main__":
    main()
