"""Several methods one after the other, on one engine: the last stage of a run, and `geopipe analyze`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from geopipe.analysis.catalogue import method_of, subject_of
from geopipe.analysis.drive import Watch, analyze
from geopipe.analysis.results import FOLDER, Analysis, about, listed
from geopipe.engine.passes import Kind, passes
from geopipe.errors import PlanError, SettingsError
from geopipe.export.lock import locked
from geopipe.layers import uris
from geopipe.settings.analysis import AnalysisSettings
from geopipe.table.table import Table


def analyze_table(
    table: Table,
    settings: AnalysisSettings,
    kind: Kind = "auto",
    address: str | None = None,
    watch: Watch = lambda step: None,
    again: bool = True,
) -> list[Analysis]:
    """Run the methods of the settings over a table, and commit the results of each as it is done.

    Args:
        kind: the engine; "auto" is this process, or a Ray cluster where one exists.
        address: of the Ray cluster.
        watch: called after each tile of a pass.
        again: also the methods whose results for this table are there already. A run, which does not repeat them, has
            locked the output.

    Raises:
        GeopipeError: a method does not fit the table, or failed. Results of the methods before it stay.
    """
    methods = [method_of(name, settings) for name in dict.fromkeys(settings.methods)]
    if not methods:
        raise SettingsError("no method of analysis is named", "for example: geopipe analyze OUTPUT --methods summary")
    subject, folder = subject_of(table, settings), folder_of(table)
    if not again:
        done = {a.method: a.about for a in listed(folder / FOLDER)}
        methods = [method for method in methods if done.get(method.name) != about(method, subject)]
    lock = locked(folder, "of geopipe analyze") if again else nullcontext()
    with lock, passes(kind, address) as at_work:
        return [analyze(method, subject, at_work, folder / FOLDER, watch) for method in methods]


def folder_of(table: Table) -> Path:
    """The folder of a table, beside which results can stand.

    Raises:
        PlanError: the table is in an object store.
    """
    if uris.is_store(table.output):
        raise PlanError(
            f"{table.output} is in an object store, where results cannot be renamed into place",
            "name the methods in [analysis] of its settings: a run analyses its table before it sends it",
        )
    return Path(table.output).expanduser().absolute()
