"""Waves of tiles, one after the other, or some at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

from geopipe.engine.contract import Keys, Stop
from geopipe.engine.guard import in_thread


def in_turn(waves: Sequence[Keys], merge: Callable[[Keys], Iterable[int]], at_once: int, stop: Stop) -> Iterator[int]:
    """Merge waves of tiles, and yield the keys of the tiles as they are done. No wave begins once `stop` is true.

    A shuffle has a barrier: no tile is merged before all are read. With several waves at a time, others read meanwhile.

    Args:
        waves: keys of the tiles of each wave.
        merge: merges a wave, and yields the keys of its tiles.
        at_once: waves at a time.
        stop: called after each wave.
    """
    if at_once == 1:
        for wave in waves:
            yield from merge(wave)
            if stop():
                return
        return
    running: deque[futures.Future[list[int]]] = deque()
    try:
        for wave in waves:
            running.append(_begun(merge, wave))
            if len(running) == at_once:
                yield from running.popleft().result()
                if stop():
                    break
        while running:
            yield from running.popleft().result()
    except Exception:
        futures.wait(running)  # else its tiles would be written beside those of the next attempt
        raise


def _begun(merge: Callable[[Keys], Iterable[int]], wave: Keys) -> futures.Future[list[int]]:
    """Begin to merge a wave in a thread that no exit of the process waits for."""
    future: futures.Future[list[int]] = futures.Future()

    def work() -> None:
        try:
            future.set_result(list(merge(wave)))
        except BaseException as error:
            future.set_exception(error)

    in_thread(work)
    return future
