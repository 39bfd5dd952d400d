"""How many workers there are, and which device each of them has. The parent may not ask torch: it never imports it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_ALL = ("auto", "cuda")  # settings of a device that mean every GPU, not one


def visible_gpus(environment: Mapping[str, str] = os.environ, dev: Path = Path("/dev")) -> list[str]:
    """The GPUs that this process may use, as entries of ``CUDA_VISIBLE_DEVICES``, which is obeyed where it is set."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        nodes = [path for path in dev.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
        return [str(index) for index in range(len(nodes))]  # CUDA counts those that are there from 0
    found: list[str] = []
    for entry in named.split(","):
        if not entry.strip() or entry.strip() == "-1":  # CUDA reads no further either
            break
        found.append(entry.strip())
    return found


def default_workers(device: str, cores: int, gpus: int | None = None) -> int:
    """The number of workers where the operator set none: one per GPU (``gpus`` None: count them). On a CPU, two workers
    of one thread each answer 1.65 times as much as one of two threads: small operations do not parallelise. Others each
    cost what they compute with and their images; those are for the operator to ask for."""
    count = len(visible_gpus()) if gpus is None else gpus
    if device.startswith("cuda") or (device == "auto" and count):
        return max(1, count) if device in _ALL else 1
    return min(2, cores)


def device_environment(index: int, device: str, gpus: list[str] | None = None) -> dict[str, str]:
    """The environment that gives worker ``index`` a GPU of its own: the workers take the GPUs in turn. Empty where
    ``device`` names one device, or where there are not several (``gpus`` None: look).

    To the worker its GPU is ``cuda:0``. It sees no other, so no library of its can touch one by mistake: a kernel, for
    example, that is launched on the current device and not on that of its tensors.
    """
    found = visible_gpus() if gpus is None else gpus
    if device not in _ALL or len(found) < 2:
        return {}
    return {"CUDA_VISIBLE_DEVICES": found[index % len(found)]}


def can_share(device: str, gpus: int | None = None) -> bool:
    """Whether workers may be forks of one process (`app.engine.fork_server`): on a CPU, on Linux. No fork can use a GPU
    that its parent has used. ``gpus`` None: count them."""
    count = len(visible_gpus()) if gpus is None else gpus
    return (device == "cpu" or (device == "auto" and count == 0)) and _has_pidfd()


def _has_pidfd() -> bool:
    """Whether the system can tell of a process that is no child of this one that it has ended (Linux 5.3)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # an older system, or a sandbox
        return False
    return sys.platform == "linux"
