"""Where geopipe keeps what is its own on a machine: the embedded Postgres, and records that wait."""

from __future__ import annotations

import os
from pathlib import Path

from geopipe.errors import MachineError

HOME = "GEOPIPE_HOME"


def home() -> Path:
    """The folder of GEOPIPE_HOME, or `geopipe` among the user's data; it need not exist.

    Raises:
        MachineError: the user has no home, and nothing else says where.
    """
    if given := os.environ.get(HOME):
        return Path(given).expanduser().absolute()
    if data := os.environ.get("XDG_DATA_HOME"):
        return Path(data) / "geopipe"
    try:
        return Path.home() / ".local" / "share" / "geopipe"
    except RuntimeError:
        raise MachineError(f"user {os.geteuid()} has no home folder", f"set {HOME} to a folder for geopipe") from None
