"""A signal that ends a run is not lost, wherever it arrives."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from geopipe.errors import find_signal

AGAIN = 0.02
"""Seconds after which a signal arrives again: the callback in which nobody could hear it is over then."""


def keep() -> None:
    """From now on, a signal whose exception is dropped arrives again.

    Python raises it wherever the main thread is. Where that is a callback of compiled code (GDAL's log) or a finaliser,
    nobody can catch it, and only `sys.unraisablehook` hears of it.
    """
    before = sys.unraisablehook
    if getattr(before, "keeps_signals", False):
        return

    def hook(unraisable: Any) -> object:
        lost: BaseException | None = unraisable.exc_value
        while lost is not None and (stop := find_signal(lost)) is not None:
            try:
                threading.Thread(target=_send_again, args=(_number(stop),), daemon=True).start()
                return None
            except BaseException as error:  # another one, just now
                lost = error
        return before(unraisable)

    hook.keeps_signals = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _number(stop: BaseException) -> int:
    return signal.SIGINT if isinstance(stop, KeyboardInterrupt) else int(getattr(stop, "number", signal.SIGTERM))


def _send_again(number: int) -> None:
    time.sleep(AGAIN)
    os.kill(os.getpid(), number)
