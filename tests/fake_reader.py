"""Readers for tests: pixels that no file holds, and a note of each window that is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from geopipe.layers.layer import Layer, Source
from geopipe.load.raster import Reader
from geopipe.merge.blocks import Column
from geopipe.resample.methods import Window

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Values of pixels by their row and column in the source, as arrays of one shape."""


@dataclass
class FakeReader:
    """Computes pixels: `field` gives those of every source, as float32. All within the source are valid."""

    field: Field

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        row, col = np.indices((window.height, window.width)) + np.array([window.row, window.col])[:, None, None]
        inside = (row >= 0) & (row < source.height) & (col >= 0) & (col < source.width)
        return self.field(row, col).astype("float32"), inside

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class NotingReader:
    """Reads by another reader, and notes the name of the source and the window of each read."""

    reader: Reader
    reads: list[tuple[str, Window]] = field(default_factory=list)

    def read_window(self, layer: Layer, source: Source, index: int, window: Window) -> Column:
        self.reads.append((source.name, window))
        return self.reader.read_window(layer, source, index, window)

    def close(self) -> None:
        self.reader.close()
