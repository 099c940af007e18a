"""How long a run still needs: one estimate that does not jump, from any course of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from geopipe.events.emit import subscribe
from geopipe.events.records import Body, Metric, Progress
from geopipe.monitoring.forecast import ENOUGH, Forecast


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def course(
    shares: Callable[[float], Mapping[str, float]], seconds: float, every: float = 0.25
) -> list[tuple[float, float]]:
    """Estimates of a run over its time; `shares` is the part of each stage, of 100 units, that is done by then."""
    clock, seen = Clock(), []
    forecast, totals = Forecast(clock), dict.fromkeys(shares(0.0), 100)
    for step in range(int(seconds / every)):
        clock.now = 1000.0 + step * every
        done = {s: Progress(s, int(100 * part), 1, 1.0) for s, part in shares(step * every).items()}
        left = forecast(done, totals)
        if left is not None:
            seen.append((step * every, left))
    return seen


def steps(tiles: int, of: float) -> Callable[[float], Mapping[str, float]]:
    """A run of so many tiles in so many seconds: all stages rise together, a tile at a time."""

    def shares(now: float) -> Mapping[str, float]:
        part = min(int(now / of * tiles) / tiles, 1.0)
        return {"read": part, "merge": part, "write": part}

    return shares


@pytest.mark.parametrize("tiles", [5, 20, 100])
def test_a_steady_run_is_forecast_to_a_fifth_and_its_time_left_does_not_climb(tiles: int) -> None:
    """Between two tiles nothing is heard: an estimate by the mean alone climbs meanwhile, 68, 84, 99, 114 s."""
    seen = course(steps(tiles, 100.0), 100.0)
    late = [(now, left) for now, left in seen if now > 25]
    assert max(abs(left - (100 - now)) for now, left in late) < 20
    climbs = [after - before for (_, before), (_, after) in pairwise(seen)]
    assert max(climbs) < 12


def test_a_run_that_grows_slower_is_forecast_anew_by_and_by() -> None:
    def shares(now: float) -> Mapping[str, float]:
        return {"read": now / 100 if now < 50 else 0.5 + (now - 50) / 400}

    seen = dict(course(shares, 150.0))
    assert seen[49.0] == pytest.approx(51, abs=5)
    assert seen[149.0] == pytest.approx(101, rel=0.3)
    climbs = [seen[now + 0.25] - seen[now] for now in seen if now + 0.25 in seen]
    assert max(climbs) < 10, "no jump, although it is a quarter as fast"


def test_nothing_is_said_too_early_and_nothing_is_left_of_what_is_done() -> None:
    seen = course(steps(100, 20.0), 30.0)
    assert seen[0][0] >= ENOUGH
    assert seen[-1][1] == 0.0
    assert course(lambda now: {"read": 0.0}, 30.0) == []
    assert Forecast(Clock())({}, {}) is None


def test_another_attempt_begins_anew() -> None:
    clock = Clock()
    forecast = Forecast(clock)
    for step in range(20):
        clock.now += 1
        forecast({"read": Progress("read", step, 1, 1.0)}, {"read": 40})
    assert forecast({"read": Progress("read", 20, 1, 1.0)}, {"read": 60}) is None


def test_it_is_told_every_other_second() -> None:
    heard: list[Body] = []
    unsubscribe = subscribe(heard.append)
    try:
        clock = Clock()
        forecast = Forecast(clock)
        for _ in range(40):
            clock.now += 0.25
            forecast.record(9.96)
        forecast.record(None)
    finally:
        unsubscribe()
    assert heard == [Metric("seconds_left", 10.0, "s")] * 5
