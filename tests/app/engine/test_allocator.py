"""Memory goes back to the system when it is time, and only then."""

import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.engine.allocator import Trimmer, find_trim

ROOT = Path(__file__).parents[3]


def test_trims_when_it_is_time() -> None:
    calls: list[int] = []

    def trim(pad: int) -> int:
        calls.append(pad)
        return 1

    often, seldom = Trimmer(0.0, trim), Trimmer(60.0, trim)
    seldom()
    assert calls == []
    often()
    often()
    assert calls == [0, 0]
    later = Trimmer(0.02, trim)
    later()
    time.sleep(0.03)
    later()
    later()
    assert calls == [0, 0, 0]


def test_the_c_librarys_own_trim_can_be_called() -> None:
    trim = find_trim()
    assert trim is None or trim(0) in (0, 1)


GAPS = """
import gc, os
from app.engine.allocator import returning_weights
held = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
def gaps():
    blocks = [b"x" * (256 << 10) for _ in range(400)]
    before = held()
    del blocks[::2]
    return before - held()
large = b"x" * (8 << 20)
del large  # glibc keeps what is smaller, from here on
with returning_weights():
    returned = gaps()
kept = gaps()
print(kept, returned)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_what_loading_lets_go_of_leaves_no_gaps() -> None:
    """Of 100 MiB in pieces of 256 KiB, every other one."""
    done = subprocess.run([sys.executable, "-c", GAPS], cwd=ROOT, check=True, capture_output=True, text=True)
    kept, returned = map(int, done.stdout.split())
    assert kept < 25
    assert returned > 40
