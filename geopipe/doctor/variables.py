"""Environment variables that change what a run does, or how fast it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from geopipe.doctor.findings import MachineFinding, State
from geopipe.engine import address as addresses

OFF = ("", "0", "no", "off", "false")

RISKY: dict[str, tuple[State, str, str]] = {
    "GDAL_SKIP": ("note", "GDAL has no drivers of these names", "unset it if sources are in these formats"),
    "GDAL_DISABLE_READDIR_ON_OPEN": (
        "note", "masks and statistics beside rasters (.msk, .aux.xml) may not be read",
        "set it the same on all nodes, or unset it: with other masks, cells get other values",
    ),
    "CPL_DEBUG": ("note", "GDAL writes a line for every step into the log", "unset it"),
}  # fmt: skip
"""State, effect and hint of variables that are switched on."""

DATA = {"GDAL_DATA": "gdalvrt.xsd", "PROJ_DATA": "proj.db", "PROJ_LIB": "proj.db"}
"""Variables with the folder of a library's data, and a file that it must have."""


def findings() -> Iterator[MachineFinding]:
    """A finding for each variable that may do harm; one that is well without any."""
    harmful = list(_harmful())
    yield from harmful
    if not harmful:
        yield MachineFinding("environment", "ok", "no variable is set that could do harm")


def _harmful() -> Iterator[MachineFinding]:
    for name in addresses.unsafe():
        hint = f"unset {name}: a damaged or foreign table could run any program"
        yield MachineFinding(
            name, "problem", "Ray Data unpickles what is stored in tables; a run on Ray refuses it", hint
        )
    for name, (state, effect, hint) in RISKY.items():
        if (text := os.environ.get(name, "")).lower() not in OFF:
            yield MachineFinding(name, state, f"{text}: {effect}", hint)
    for name, file in DATA.items():
        folder = os.environ.get(name, "")
        if folder and not any((Path(part) / file).is_file() for part in folder.split(os.pathsep)):
            yield MachineFinding(
                name, "problem", f"{folder} has no {file}", f"unset {name}: the packages bring their own"
            )
        elif folder:
            hint = f"unset {name}, unless the folder belongs to the versions above: the packages bring their own"
            yield MachineFinding(name, "note", f"{folder} takes the place of the data in the packages", hint)
    shipping = os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1").lower() not in OFF
    if os.environ.get("UV_RUN_RECURSION_DEPTH") and shipping:  # uv sets it for what it runs
        hint = "set RAY_ENABLE_UV_RUN_RUNTIME_ENV=0, or start .venv/bin/geopipe without uv"
        yield MachineFinding(
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "note", "under `uv run` Ray sends this folder to workers", hint
        )
