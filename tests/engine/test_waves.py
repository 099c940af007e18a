"""Waves of tiles go in turn, one or some at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from geopipe.engine.contract import Keys, never
from geopipe.engine.waves import in_turn

WAVES = [np.array(keys) for keys in ([0, 1], [2, 3], [4], [5, 6])]


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_all_tiles_come_in_the_order_of_the_waves(at_once: int) -> None:
    assert list(in_turn(WAVES, lambda wave: map(int, wave), at_once, never)) == [0, 1, 2, 3, 4, 5, 6]


def test_a_wave_reads_while_the_one_before_it_merges() -> None:
    """Neither ends before the other has begun: one after the other they would wait for ever."""
    both = threading.Barrier(2, timeout=20)

    def merge(wave: Keys) -> Iterator[int]:
        both.wait()
        yield int(wave[0])

    assert list(in_turn(WAVES, merge, 2, never)) == [0, 2, 4, 5]


@pytest.mark.parametrize(("at_once", "tiles"), [(1, [0, 1]), (2, [0, 1, 2, 3]), (3, [0, 1, 2, 3, 4])])
def test_a_pause_lets_waves_in_work_end_and_begins_no_other(at_once: int, tiles: list[int]) -> None:
    assert list(in_turn(WAVES, lambda wave: map(int, wave), at_once, lambda: True)) == tiles


def test_a_wave_that_fails_waits_for_the_one_beside_it() -> None:
    begun, ended = threading.Event(), threading.Event()

    def merge(wave: Keys) -> Iterator[int]:
        if wave[0] == 0:
            begun.wait(20)
            raise ValueError("broken")
        begun.set()
        ended.wait(0.2)
        ended.set()
        yield int(wave[0])

    with pytest.raises(ValueError, match="broken"):
        list(in_turn(WAVES, merge, 2, never))
    assert ended.is_set()
