"""Memory goes back to the system when it is time, and only then."""

import time

from app.engine.allocator import Trimmer, find_trim


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
