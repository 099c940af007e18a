"""The names and colours of classes, kept beside a table for maps and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers import north_up, write_raster

import geopipe as gp

COLOURS = {1: (65, 105, 225, 255), 2: (0, 100, 0, 255), 7: (255, 250, 250, 255)}

NAMES = """<PAMDataset><PAMRasterBand band="1"><CategoryNames>
<Category/><Category>water</Category><Category>forest &amp; shrub</Category>
</CategoryNames></PAMRasterBand></PAMDataset>"""


def settings(folder: Path, **layer: Any) -> dict[str, Any]:
    """Settings of one layer of classes, with a colour table and names for two of its three classes."""
    classes = np.random.default_rng(1).choice([0, 1, 2, 7], (60, 50)).astype("uint8")
    path = write_raster(folder / "c.tif", classes, "EPSG:32632", north_up(0, 0, 10), nodata=0, colormap=COLOURS)
    (folder / "c.tif.aux.xml").write_text(NAMES)
    return {
        "run": {"output": folder / "output"},
        "grid": {"like": path},
        "layers": [{"name": "cover", "path": path, **layer}],
    }


def test_a_finished_table_keeps_names_and_colours_of_its_classes(tmp_path: Path) -> None:
    table = gp.open(gp.run(settings(tmp_path), engine="local", progress=False).output)
    assert table.provenance["classes"] == {
        "cover": {
            "1": {"name": "water", "colour": "#4169e1"},
            "2": {"name": "forest & shrub", "colour": "#006400"},
            "7": {"name": "", "colour": "#fffafa"},
        }
    }


def test_a_share_or_a_mean_of_classes_has_no_palette_and_no_palette_is_in_the_hash(tmp_path: Path) -> None:
    own = settings(tmp_path, fractions=[1])
    assert list(gp.plan(own).provenance["classes"]) == ["cover"]
    assert gp.plan(settings(tmp_path, kind="continuous")).provenance["classes"] == {}
    plan = gp.plan(own)
    assert "4169e1" not in str(plan.identity)
