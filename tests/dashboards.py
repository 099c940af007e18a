"""The panels of a Grafana dashboard, and their queries as Grafana sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$session": ".*"}
"""Grafana's values for a dashboard on which all is chosen."""


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard: Mapping[str, Any]) -> dict[str, str]:
    """The query of each panel, by its title."""
    result = {}
    for panel in panels(dashboard):
        (target,) = panel["targets"]
        text = target["expr"]
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        assert "$" not in text
        result[panel["title"]] = text
    return result
