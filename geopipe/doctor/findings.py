"""A finding of `geopipe doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class MachineFinding:
    """A fact of a machine.

    Attributes:
        name: short and stable, such as "shared-memory".
        state: "problem" if runs fail or give other values, "note" if they may be slow or lack something.
        value: for people.
        hint: what to do about it; "" if it is well.
        node: of the cluster; "" for this machine.
    """

    name: str
    state: State
    value: str
    hint: str = ""
    node: str = ""
