"""Which worker has which GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.engine.devices import can_share, default_workers, device_environment, visible_gpus


@pytest.mark.parametrize(
    ("device", "cores", "gpus", "workers"),
    [
        ("cuda:1", 16, 8, 1),
        ("cuda", 16, 8, 8),
        ("cuda", 16, 0, 1),
        ("auto", 16, 3, 3),
        ("auto", 16, 0, 2),
        ("auto", 1, 0, 1),
        ("cpu", 16, 8, 2),
        ("cpu", 1, 8, 1),
    ],
)
def test_workers_that_nobody_chose(device: str, cores: int, gpus: int, workers: int) -> None:
    """One for each GPU; on a CPU two, where there are two cores."""
    assert default_workers(device, cores, gpus) == workers


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_worker_has_a_gpu_of_its_own(device: str) -> None:
    """In turn, where there are more workers than GPUs."""
    given = [device_environment(index, device, ["0", "2"]) for index in range(3)]
    assert given == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("0", "2", "0")]


@pytest.mark.parametrize(
    ("device", "gpus"), [("cuda:1", ["0", "1"]), ("cpu", ["0", "1"]), ("auto", ["5"]), ("cuda", [])]
)
def test_a_device_that_is_chosen_or_the_only_one_is_left_alone(device: str, gpus: list[str]) -> None:
    """The workers see what their parent sees."""
    assert device_environment(1, device, gpus) == {}


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("", []),
        ("-1", []),
        ("2, 0", ["2", "0"]),
        ("1,-1,0", ["1"]),
        ("GPU-8932f937,MIG-GPU-8932f937/1/2", ["GPU-8932f937", "MIG-GPU-8932f937/1/2"]),
    ],
)
def test_cudas_own_variable_is_obeyed(named: str, found: list[str], tmp_path: Path) -> None:
    """As CUDA reads it: up to the first entry that is none."""
    (tmp_path / "nvidia0").touch()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": named}, tmp_path) == found


def test_device_nodes_are_counted_where_nothing_is_said(tmp_path: Path) -> None:
    """Numbered ones: the driver has others."""
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
@pytest.mark.parametrize(
    ("device", "gpus", "shared"), [("cpu", 2, True), ("auto", 0, True), ("auto", 1, False), ("cuda", 0, False)]
)
def test_workers_on_a_gpu_share_nothing(device: str, gpus: int, shared: bool) -> None:
    """No fork can use a GPU that its parent has used."""
    assert can_share(device, gpus) is shared
