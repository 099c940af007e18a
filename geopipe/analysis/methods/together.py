"""Several passes in one reading of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from geopipe.analysis.contract import Pass, Reduce, Result

Make = Callable[[Callable[[Any], Pass | Result]], Pass]
"""Makes a pass that gives what it finds to a function."""


def together(makes: Sequence[Make], then: Callable[..., Pass | Result]) -> Reduce:
    """The pass that keeps the states of several.

    Args:
        makes: of passes that keep states. What follows one of them before its end is a pass of its own.
        then: what each of them finds -> the next pass or the result.
    """
    steps = [step for make in makes if isinstance(step := make(_unused), Reduce)]

    def finish(states: tuple[Any, ...] | None) -> Pass | Result:
        return _finish(makes, then, states or (None,) * len(steps), ())

    title, columns = ", ".join(step.title for step in steps), [name for step in steps for name in step.columns]
    return Reduce(title, tuple(dict.fromkeys(columns)), partial(_map, steps), partial(_merge, steps), finish)


def _finish(
    makes: Sequence[Make], then: Callable[..., Pass | Result], states: tuple[Any, ...], known: tuple[Any, ...]
) -> Pass | Result:
    """Finish one pass after the other, each with what those before it found."""
    if not makes:
        return then(*known)
    step = makes[0](lambda value: _finish(makes[1:], then, states[1:], (*known, value)))
    return step.finish(states[0])


def _unused(value: Any) -> Result:
    raise TypeError("a pass beside others is finished with them")


def _map(steps: Sequence[Reduce], chunk: pa.Table) -> tuple[Any, ...]:
    return tuple(step.map(chunk.select(list(dict.fromkeys(["row", "col", *step.columns])))) for step in steps)


def _merge(steps: Sequence[Reduce], left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(step.merge(one, other) for step, one, other in zip(steps, left, right, strict=True))
