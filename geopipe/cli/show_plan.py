"""What `geopipe plan` prints."""

from __future__ import annotations

from rich.console import Console

from geopipe.cli.screen import headline
from geopipe.plan.plan import Plan
from geopipe.plan.text import plan_text
from geopipe.settings.sections import Run


def plan(out: Console, planned: Plan, run: Run, verbose: bool = False) -> None:
    """Write the plan and where its table goes."""
    for line in plan_text(planned, verbose).splitlines():
        if line.startswith(" "):
            out.print(line, style="yellow" if line.startswith("  note ") else "")
        else:
            headline(out, line)
    place = f"made in {run.folder}, then sent to {run.store}" if run.store else str(run.folder)
    out.print(f"output: {place}")
