"""Write the report of a finished table: facts as JSON first, then the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geopipe.durable import replacing, write_error
from geopipe.errors import PlanError
from geopipe.export.state import PAGE, REPORT
from geopipe.layers import uris
from geopipe.report.facts import as_json, facts_of
from geopipe.report.sample import sample_of
from geopipe.table.table import open_table

FACTS = "facts.json"
"""What the page says, as JSON, in the folder of the report."""


def report(output: str, file: Path | None = None, name: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the report of a finished table. Returns the page's path, and the facts.

    Args:
        output: folder or URI of the table.
        file: for the page; None for OUTPUT/report.html.
        name: of the output, for people; None for `output`.

    Raises:
        PlanError: there is no finished run, or it is in an object store and `file` is None.
        MachineError: the table cannot be read, or the report not written.
    """
    from geopipe.report.page import page_of  # templates and drawing are loaded for a page alone

    if file is None and uris.is_store(output):
        raise PlanError(f"{output} is an object store", "name a file for the page: -o report.html")
    table = open_table(output)
    sample = sample_of(table)
    facts = facts_of(table, sample, name or output)
    page = Path(output) / PAGE if file is None else file
    try:
        if file is None:
            (Path(output) / REPORT).mkdir(exist_ok=True)
            with replacing(Path(output) / REPORT / FACTS, sync=False) as sink:
                sink.write(as_json(facts))
        with replacing(page, sync=False) as sink:
            sink.write(page_of(facts, sample, table).encode())
    except OSError as error:
        raise write_error(error, page) from error
    return page, facts
