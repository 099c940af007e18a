"""Signals that end a run are not lost, whatever code they interrupt."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from geopipe.errors import find_signal

AGAIN = 0.02
"""Seconds until a lost signal is sent again. The callback that dropped it has returned by then."""


def keep() -> None:
    """Send a signal again if its exception was dropped.

    Python raises the exception of a signal in the main thread. In a callback of compiled code (GDAL's log) or in a
    finaliser no caller can catch it, and only `sys.unraisablehook` gets it.
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
