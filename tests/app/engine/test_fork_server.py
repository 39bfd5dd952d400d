"""Workers as forks of one process: what they share, and that none of them takes the others with it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.engine.devices import can_share
from app.engine.engine import LOADER, Engine, ImageSource
from app.engine.fork_server import has_one_thread
from app.settings import Settings
from model.interface import MapRequest
from tests.app.engine.tools import engine, refused, said, source, until
from tests.fakes.model import COUNTED, CROWDED, ENDING, ENDLESS, FAILING, HEAVY, THREADED

pytestmark = pytest.mark.skipif(not can_share("cpu", 0), reason="forks are for Linux")

TWO = {"workers": 2, "threads": 1, "device": "cpu"}


async def both_ready(made: Engine) -> list[int]:
    """The workers' process ids, once all are ready."""
    await until(lambda: all(replica.state == "ready" for replica in made.replicas), 30.0)
    pids = [replica.worker.pid for replica in made.replicas]
    assert all(pids)
    return [pid for pid in pids if pid]


def figure(pid: int, file: str, name: str) -> int:
    """What a file of /proc says of a process."""
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def open_files(pid: int) -> int:
    """The number of a process's descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def kill_and_wait(pid: int) -> None:
    """End a process, until its parent has reaped it; not in the loop, which turns no further meanwhile."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10.0
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end


async def ask_both(made: Engine) -> set[int]:
    """Two requests at once, which go to two workers: those that have encoded an image so far."""
    slow = [asyncio.create_task(made.run("answer", source(colour=(n, n, n)), ["!slow 0.2"])) for n in (7, 8)]
    assert [said(await task) for task in slow] == [["7"], ["8"]]
    return {replica.index for replica in made.replicas if replica.images.encoded}


async def test_the_model_is_loaded_once_for_all_workers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also for one that takes the place of another; each answers. The log says once how long it took."""
    caplog.set_level(logging.INFO)
    loads = tmp_path / "loads"
    async with engine(loader=COUNTED, model=str(loads), **TWO) as (made, recorder):
        first = await both_ready(made)
        assert len(set(first)) == 2
        assert await ask_both(made) == {0, 1}
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: recorder.restarts == 1)
        second = await both_ready(made)
        assert second[0] != first[0]
        assert second[1] == first[1]
        assert loads.read_text() == "+"
    assert caplog.text.count("loaded what workers share in") == 1


async def test_a_worker_holds_no_copy_of_what_was_loaded() -> None:
    """Of 64 MiB, that is."""
    async with engine(loader=HEAVY, **TWO) as (made, _):
        for pid in await both_ready(made):
            assert figure(pid, "smaps_rollup", "Private_Dirty") < 32 * 1024  # kB


async def test_workers_end_with_the_process_that_they_are_forks_of(tmp_path: Path) -> None:
    """Then that is started anew, and they with it."""
    loads = tmp_path / "loads"
    async with engine(loader=COUNTED, model=str(loads), **TWO) as (made, recorder):
        first = await both_ready(made)
        os.kill(figure(first[0], "status", "PPid"), signal.SIGKILL)
        await until(lambda: recorder.restarts == 2)
        assert not set(first) & set(await both_ready(made))
        assert loads.read_text() == "++"
        assert await ask_both(made) == {0, 1}


_STARTS_ONE = """
import asyncio, socket, sys
from app.engine.local import ForkServer
from app.engine.messages import Load
load = Load(sys.argv[1], {"name": sys.argv[2], "threads": 1}, "info", "text")
asyncio.run(ForkServer({}).fork(load, socket.socketpair()[1], seconds=600))
"""


def test_while_it_loads_it_ends_with_its_parent(tmp_path: Path) -> None:
    """Which may be killed, and says nothing then."""
    told = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", _STARTS_ONE, ENDLESS, str(told)]) as parent:
        end = time.monotonic() + 60.0
        while not told.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        with open(os.pidfd_open(int(told.read_text()))) as loading:
            parent.kill()
            assert select.select([loading], [], [], 60.0)[0], "it goes on loading"


async def test_a_stuck_fork_is_killed() -> None:
    """As any worker; the other goes on."""
    async with engine(worker_seconds=0.5, **TWO) as (made, recorder):
        first = await both_ready(made)
        assert await refused(asyncio.ensure_future(made.run("answer", source(), ["!hang"]))) == "worker_failed"
        await until(lambda: recorder.restarts == 1)
        assert len(set(first) & set(await both_ready(made))) == 1


async def test_a_fork_that_is_gone_may_be_killed() -> None:
    """Before the loop has heard of its end."""
    async with engine(**TWO) as (made, recorder):
        first = await both_ready(made)
        kill_and_wait(first[0])
        made.replicas[0].worker.kill()
        await until(lambda: recorder.restarts == 1)
        assert (await both_ready(made))[1] == first[1]


async def test_a_full_system_costs_no_worker_that_lives(tmp_path: Path) -> None:
    """One that died is forked again, by the same process, as soon as there is room."""
    full = tmp_path / "full"
    async with engine(loader=CROWDED, model=str(full), **TWO) as (made, recorder):
        first = await both_ready(made)
        parent = figure(first[1], "status", "PPid")
        full.touch()
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: recorder.restarts == 2)  # it died, and there was no room
        full.unlink()
        second = await both_ready(made)
        assert second[1] == first[1]
        assert {figure(pid, "status", "PPid") for pid in second} == {parent}


async def test_workers_that_died_leave_a_line_of_the_log_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    """No file stays open in the process that they were forks of, and no zombie."""
    async with engine(**TWO) as (made, recorder):
        parent = figure((await both_ready(made))[0], "status", "PPid")
        before = open_files(parent)
        died = []
        for count in (1, 2, 3):
            died.append((await both_ready(made))[count % 2])
            kill_and_wait(died[-1])
            await until(lambda count=count: recorder.restarts == count)
        await both_ready(made)
        await until(lambda: open_files(parent) <= before)
    text = capfd.readouterr().err
    for pid in died:
        assert f"worker {pid} was ended by SIGKILL" in text


async def test_a_fork_that_ends_before_it_is_known_is_lost_as_any_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its number is still its own as the parent opens it."""
    async with engine(loader=ENDING, model=str(tmp_path / "ended"), **TWO) as (made, recorder):
        await both_ready(made)
        assert recorder.restarts == 1
    assert re.search(r"worker lost: worker \d+ ended", caplog.text)


def test_where_threads_cannot_be_counted_nothing_is_forked(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    assert has_one_thread(tmp_path)
    assert not has_one_thread(tmp_path / "none")


async def test_a_model_with_threads_is_not_forked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fork would have none of them, and the locks that they held for ever. Each worker loads for itself."""
    loads = tmp_path / "loads"
    async with engine(loader=THREADED, model=str(loads), **TWO) as (made, _):
        await both_ready(made)
        assert loads.read_text() == "+++"
        assert await ask_both(made) == {0, 1}
    assert "share no memory" in caplog.text


async def test_workers_of_two_threads_share_modules_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model starts its threads in each of them."""
    loads, imports = tmp_path / "loads", tmp_path / "imports"
    noting = f"import os, pathlib\npathlib.Path({str(imports)!r}).open('a').write(f'{{os.getpid()}} ')\n"
    (tmp_path / "noting.py").write_text(f"from tests.fakes.model import load_threaded\n{noting}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with engine(loader="noting:load_threaded", model=str(loads), **TWO | {"threads": 2}) as (made, _):
        pids = await both_ready(made)
        (parent,) = {figure(pid, "status", "PPid") for pid in pids}
        assert parent != os.getpid()
        assert loads.read_text() == "++"
        assert imports.read_text().split() == [str(parent)]
        assert await ask_both(made) == {0, 1}


async def test_a_model_that_cannot_be_loaded() -> None:
    """It is said once, as without forks."""
    made = Engine(Settings(_env_file=None, **TWO), loader=FAILING)
    made.start()
    assert not await made.wait_ready()
    assert made.failure == "no weights here"
    await made.stop()


async def test_forks_of_a_real_model_give_the_same_maps_of_all_kinds() -> None:
    """By PyTorch too: a rollout's and a gradient's of one head go through it."""
    with Image.open(Path(__file__).parents[3] / "examples" / "cat.jpg") as image:
        cat = image.convert("RGB")
    async with engine(loader=LOADER, model="tiny", **TWO) as (made, _):
        pids = await both_ready(made)
        (parent,) = {figure(pid, "status", "PPid") for pid in pids}  # ONNX Runtime has brought no thread
        assert parent != os.getpid()
        for request in (MapRequest("gradient"), MapRequest("rollout"), MapRequest("raw", heads=(0,))):
            images = [ImageSource(f"{request} {n}".encode(), lambda preprocess: preprocess(cat)) for n in range(2)]
            answers = await asyncio.gather(*(made.run("answer", image, ["what?"], maps=request) for image in images))
            one, other = (answer.output.texts[0].answer_map for answer in answers)
            assert one is not None and other is not None  # noqa: PT018
            np.testing.assert_allclose(one.values, other.values, rtol=1e-5)
        assert {replica.index for replica in made.replicas if replica.images.encoded} == {0, 1}
