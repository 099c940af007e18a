"""The time that a run still needs: one estimate, made by the run, for all who watch it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from geopipe.events.emit import context, emit
from geopipe.events.records import Metric, Progress

NAME, STAGE = "seconds_left", "run"
"""Name and stage of the metric with the estimate."""

EVERY = 2.0
"""Seconds between two of these metrics."""

MEMORY = 30.0
"""Seconds after which a speed has a third of its weight (1/e)."""

ENOUGH = 3.0
"""Seconds of work before an estimate: workers start and compile before they reach their speed."""


class Forecast:
    """Seconds that a run still needs, from its progress; safe to use from one thread.

    The share of the work that is done (the mean over stages) rises in steps of a tile or of a batch of records. The
    speed between two steps enters an exponential moving average; between steps, the time counts down.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._totals: Mapping[str, int] = {}
        self._begin = self._stepped = self._recorded = clock()
        self._share = self._first = 0.0
        self._speed: float | None = None
        self._left: float | None = None

    def __call__(self, stages: Mapping[str, Progress], totals: Mapping[str, int]) -> float | None:
        """Seconds from now; None while unknown."""
        now = self._clock()
        shares = [min(stages[s].tiles / of, 1.0) if s in stages else 0.0 for s, of in totals.items() if of]
        share = sum(shares) / len(shares) if shares else 0.0
        if totals != self._totals or share < self._share:  # another attempt with other work
            self._totals, self._begin, self._stepped = dict(totals), now, now
            self._share = self._first = share
            self._speed = self._left = None
        elif share > self._share:
            self._step(now, share)
        return self._now(now)

    def _step(self, now: float, share: float) -> None:
        speed = (share - self._share) / max(now - self._stepped, 1e-3)
        if self._speed is None or now - self._begin < ENOUGH:  # over the whole time: the first steps are few
            self._speed = (share - self._first) / max(now - self._begin, 1e-3)
        else:
            self._speed += (1 - math.exp((self._stepped - now) / MEMORY)) * (speed - self._speed)
        left = (1 - share) / self._speed if self._speed > 0 else None
        before = self._now(now)
        if left is not None and before is not None and now - self._begin >= ENOUGH:
            left = before + (1 - math.exp((self._stepped - now) / 10)) * (left - before)
        self._stepped, self._share, self._left = now, share, left

    def _now(self, now: float) -> float | None:
        """The estimate of the last step, counted down to a quarter at most."""
        if self._share >= 1:
            return 0.0
        if self._left is None or now - self._begin < ENOUGH:
            return None
        return max(self._left - (now - self._stepped), self._left / 4)

    def record(self, seconds: float | None) -> None:
        """Record the estimate, every EVERY seconds."""
        if seconds is not None and self._clock() - self._recorded >= EVERY:
            self._recorded = self._clock()
            with context(stage=STAGE):
                emit(Metric(NAME, round(seconds, 1), "s"))
