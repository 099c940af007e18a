"""A tile in strips: read, merged and written one after the other, so that memory holds a strip and not the tile.

A strip is a row of canonical blocks. Reading it by itself changes no value, and the files do not show where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import chain
from typing import TypeVar

from geopipe.grid.grid import Tile, strips_of
from geopipe.merge.blocks import BlockRow
from geopipe.merge.points import SparseRow
from geopipe.merge.tile import Part, merge_tile
from geopipe.plan.plan import Plan

Read = Callable[[Tile], Iterable[BlockRow | SparseRow]]
"""Reads the block rows of a tile, or of a strip of it."""

Item = TypeVar("Item")


def parts_of(plan: Plan, tile: Tile) -> list[Tile]:
    """The strips of a tile from top to bottom if the plan has them, else the tile."""
    return strips_of(tile) if plan.estimate.in_strips else [tile]


def merge_strips(plan: Plan, tile: Tile, read: Read, points: Sequence[SparseRow] = ()) -> Iterator[Part]:
    """Read and merge a tile in strips if the plan has them, else in one piece.

    Args:
        points: of the tile, whose cells are numbered in the tile.
    """
    for strip in parts_of(plan, tile):
        rows: Iterable[BlockRow | SparseRow] = chain(read(strip), points)
        yield strip, merge_tile(plan.spec, strip, rows)


def ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """Iterate over items that a thread makes: the next one while the last one is in use.

    The generator runs in that thread from its first line to its end, in a copy of the caller's context.
    """
    run = copy_context().run

    def advance() -> Item | None:
        return run(next, items, None)

    with ThreadPoolExecutor(1, "geopipe-ahead") as thread:
        try:
            pending = thread.submit(advance)
            while (item := pending.result()) is not None:
                pending = thread.submit(advance)
                yield item
                del item  # its memory is free before the next one comes
        finally:
            thread.submit(run, items.close).result()
