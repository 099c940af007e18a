"""Write the report of a finished table, or of the differences of two: facts as JSON first, then the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geopipe.durable import replacing, write_error
from geopipe.errors import PlanError
from geopipe.export.state import PAGE, REPORT
from geopipe.layers import uris
from geopipe.report.against import comparison_of
from geopipe.report.facts import as_json, facts_of
from geopipe.report.sample import sample_of
from geopipe.table.table import open_table

FACTS = "facts.json"
"""What the page says, as JSON, in the folder of the report."""

AGAINST = "against.html"
"""The page of the differences from another table, in the folder of the report."""


def report(output: str, file: Path | None = None, name: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the report of a finished table. Returns the page's path, and the facts.

    Args:
        output: folder or URI of the table.
        file: for the page; None for OUTPUT/report.html, with the facts beside it.
        name: of the output, for people; None for `output`.

    Raises:
        PlanError: there is no finished run, or it is in an object store and `file` is None.
        MachineError: the table cannot be read, or the report not written.
    """
    from geopipe.report.page import page_of  # templates and drawing are loaded for a page alone

    page = _page(output, file, PAGE)
    table = open_table(output)
    sample = sample_of(table)
    facts = facts_of(table, sample, name or output)
    if file is None:
        _write(Path(output) / REPORT / FACTS, as_json(facts))
    _write(page, page_of(facts, sample, table).encode())
    return page, facts


def compare(output: str, other: str, file: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the page of the differences of two finished tables. Returns its path, and the differences.

    Args:
        output: folder or URI of the table.
        other: of the table beside it.
        file: for the page; None for OUTPUT/report/against.html.

    Raises:
        PlanError, MachineError: as `report`.
    """
    from geopipe.report.page import comparison_page

    page = _page(output, file, f"{REPORT}/{AGAINST}")
    one, two = open_table(output), open_table(other)
    samples = sample_of(one), sample_of(two)
    comparison = comparison_of((one, two), samples)
    _write(page, comparison_page(comparison, samples).encode())
    return page, comparison


def _page(output: str, file: Path | None, name: str) -> Path:
    """The path of a page."""
    if file is None and uris.is_store(output):
        raise PlanError(f"{output} is an object store", "name a file for the page: -o report.html")
    return Path(output) / name if file is None else file


def _write(path: Path, data: bytes) -> None:
    try:
        if path.parent.name == REPORT:
            path.parent.mkdir(exist_ok=True)
        with replacing(path, sync=False) as sink:
            sink.write(data)
    except OSError as error:
        raise write_error(error, path) from error
