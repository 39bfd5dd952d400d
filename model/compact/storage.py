"""Weights on disk: safetensors with matrices as int8 and everything else as float16.

A float tensor of two or more dimensions is stored as int8 with one scale for each row of its first dimension
(symmetric, round to nearest), under its own name and ``<name>.scale``. Loading gives float32 back: the storage
is small, the arithmetic is not changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FITTED = "fitted.safetensors"
"""Beside a model's weights: tensors that were fitted later and stand in place of those of the same names. So a large
file that stays as it is need not be stored anew."""

_SCALE = ".scale"


def save_small(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write float tensors of any shape at about a quarter of their float32 size: ``[n, ...]`` as int8 with one scale
    per row of the first dimension, ``[n]`` and scalars as float16."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().float().cpu()
        if values.ndim < 2:
            stored[name] = values.half().contiguous()
            continue
        scale = (values.flatten(1).abs().amax(1) / 127.0).clamp_min(1e-12)
        shaped = scale.view(-1, *[1] * (values.ndim - 1))
        stored[name] = (values / shaped).round().clamp(-127, 127).to(torch.int8).contiguous()
        stored[name + _SCALE] = scale.contiguous()
    save_file(stored, path)
    path.chmod(0o644)  # safetensors leaves it readable by its writer alone; a container's user is another


def load_small(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read what `save_small` wrote, or of that the tensors whose names begin with ``prefix``: float32 tensors of the
    shapes they had. Raises ValueError for an int8 tensor ``[n, ...]`` without a scale ``[n]``."""
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in stored:
            continue
        scale = stored.get(name + _SCALE)
        if tensor.dtype == torch.int8 and (scale is None or scale.shape != tensor.shape[:1]):
            raise ValueError(f"{name} has 8 bits a number and no scale for each row")
        values = tensor.float()
        tensors[name] = values if scale is None else values.mul_(scale.view(-1, *[1] * (values.ndim - 1)))
    return tensors


def forget(module: nn.Module) -> None:
    """Let go of a module's weights: they become tensors without numbers, with which it cannot be run."""
    for parameter in module.parameters():
        parameter.data = parameter.new_empty(0)


def recall(module: nn.Module, path: Path, prefix: str) -> None:
    """Read again what a module had to `forget`. ``prefix``: what stands before the module's own names in the file."""
    weights = load_small(path, prefix)
    for name, parameter in module.named_parameters():
        parameter.data = weights[prefix + name]


def load_fitted(file: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """`load_small`, each tensor of the shape it was saved with, those of a `FITTED` beside the file in place of its
    own; and where there is one, that file. Raises ValueError as `load_small`."""
    later = file.with_name(FITTED)
    fitted = [later] if later.is_file() else []
    return load_small(file) | {name: tensor for one in fitted for name, tensor in load_small(one).items()}, fitted


class Uninitialised(TorchFunctionMode):
    """While it is entered, new modules keep the memory that they find: their weights are about to be loaded.

    Modules on the meta device would do the same, but what PyTorch imports for them takes seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def store_under(net: nn.Module, names: Mapping[str, str]) -> None:
    """Let ``net.state_dict()`` name tensors as weight files do, and ``net.load_state_dict()`` take those names.

    ``names``: the net's own names, or beginnings of them, and what they are in files.
    """

    def rename(state: dict[str, Any], prefix: str, pairs: Mapping[str, str]) -> None:
        for old, new in pairs.items():
            for key in [key for key in state if key.startswith(prefix + old)]:
                state[prefix + new + key.removeprefix(prefix + old)] = state.pop(key)

    back = {stored: own for own, stored in names.items()}
    net.register_state_dict_post_hook(lambda _net, state, prefix, _metadata: rename(state, prefix, names))  # type: ignore[no-untyped-call]
    net.register_load_state_dict_pre_hook(lambda _net, state, prefix, *_: rename(state, prefix, back))  # type: ignore[no-untyped-call]


def revision_of(files: list[Path]) -> str:
    """``sha256:`` and the first 16 hex digits of the hash over the files' names and bytes."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()[:16]}"
