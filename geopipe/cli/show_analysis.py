"""Results of analyses as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from geopipe.analysis.results import Analysis
from geopipe.cli.screen import headline, say


def analyses(out: Console, results: Sequence[Analysis]) -> None:
    """Print the findings of each method, and where its results are."""
    for analysis in results:
        headline(out, analysis.method, f"  {analysis.folder}")
        for finding in analysis.findings:
            say(out, f"  {finding}")


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """The contents of `result.json`, and the folder that has it."""
    return {
        "method": analysis.method,
        "folder": str(analysis.folder),
        "findings": list(analysis.findings),
        "values": analysis.values,
        "about": analysis.about,
    }
