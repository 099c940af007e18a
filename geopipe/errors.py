"""The one exception family, with the exit codes of the command line.

1: the run failed; 2: usage or settings; 3: the environment; 75: paused; 128 + n: signal n.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from geopipe.redaction import redact


class GeopipeError(Exception):
    """Base of all errors that geopipe raises on purpose.

    Secrets in its texts are hidden when it is made.

    Args:
        message: what is wrong, where (file, band, setting, line), and what was expected.
        hint: what the user can do about it.
        layer: name of the layer that a run may skip for it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", layer: str | None = None) -> None:
        message, hint = redact(message), redact(hint)
        super().__init__(message, hint, layer)
        self.message = message
        self.hint = hint
        self.layer = layer

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class RunError(GeopipeError):
    """The run started and could not finish."""


class SettingsError(GeopipeError):
    """The settings or the arguments are wrong."""

    exit_code = 2


class SourceError(GeopipeError):
    """A source cannot be opened, read or placed on the grid."""

    exit_code = 2


class PlanError(GeopipeError):
    """The plan cannot be executed here."""

    exit_code = 2


class MachineError(GeopipeError):
    """The machine, a service or a permission prevents it."""

    exit_code = 3


class WorkersLost(MachineError):
    """Processes of a run, or their node, are gone; what they had not finished can be done again."""


class Paused(GeopipeError):
    """The run has paused: its tiles wait for `--resume`."""

    exit_code = 75


class Terminated(BaseException):
    """SIGTERM, or another signal that ends a process, has arrived."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, at most 300 characters; the name of its class if it has no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def find(error: BaseException) -> GeopipeError | None:
    """The GeopipeError behind `error`: itself, or one of its causes (a Ray task error wraps it)."""
    for item in causes(error):
        # Ray's wrapper is also an instance of the class that it wraps
        if isinstance(item, GeopipeError) and getattr(item, "cause", None) is None:
            return item
    return None


def find_signal(error: BaseException) -> BaseException | None:
    """The signal behind `error`: compiled code turns one that arrives in it into a SystemError."""
    if isinstance(error, GeopipeError):
        return None
    return next((item for item in causes(error) if isinstance(item, KeyboardInterrupt | Terminated)), None)


@contextmanager
def noted(outcome: Callable[[], str]) -> Iterator[None]:
    """Add a note to a signal that ends the block: the outcome, which the command line prints."""
    try:
        yield
    except BaseException as error:
        arrived = find_signal(error)
        if arrived is not None and not getattr(arrived, "__notes__", ()):
            arrived.add_note(outcome())
        raise


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from or wraps."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        item = stack.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        stack += [item.__cause__, item.__context__, getattr(item, "cause", None)]
