"""Where the table of a run goes, and what is there already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopipe.errors import GeopipeError, PlanError
from geopipe.events import logs
from geopipe.export import objects, publish, state
from geopipe.export.objects import ObjectStore
from geopipe.plan.plan import Plan
from geopipe.settings.model import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """The folder that a run works in, and the object store to which the finished folder is sent, if any."""

    folder: Path
    store: ObjectStore | None

    @classmethod
    def of(cls, settings: Settings) -> Destination:
        """The destination that the settings name."""
        return cls(settings.run.folder, objects.connect(settings.run.store) if settings.run.store else None)

    @property
    def output(self) -> Path | str:
        """The folder of the table, or the URI of its object store."""
        return self.folder if self.store is None else self.store.uri

    def check(self, overwrite: bool) -> None:
        """Refuse an output, or a folder to work in, that is not free.

        Raises:
            PlanError: it holds a finished run, or foreign files.
        """
        if self.store is not None:
            objects.check(self.store, overwrite)
            if state.is_finished(self.folder) and not overwrite:
                raise PlanError(
                    f"run.staging = {self.folder} holds a finished run that was not sent to the end",
                    "send it with --resume, replace it with --overwrite, or choose another run.staging",
                )
        publish.check_output(self.folder, overwrite)

    def finished(self) -> dict[str, Any] | None:
        """`_SUCCESS` of a finished run: of one that is to be sent, else of one in the output; None without one."""
        success = state.finished(self.folder)
        return objects.finished(self.store) if success is None and self.store is not None else success

    def keep_or_drop(self, plan: Plan, fresh: bool, confirm: Callable[[str], bool] | None) -> None:
        """Log what unfinished runs have left in the output. Tiles of the same plan are kept, unless refused.

        Args:
            plan: of this run.
            fresh: drop everything.
            confirm: asked whether to keep the tiles; None to keep them.
        """
        if fresh:
            publish.drop(self.folder)
        for run in state.readable_runs(self.folder):
            if not run.done:
                publish.drop(self.folder, run.plan_hash)
                continue
            if run.plan_hash != plan.hash:
                text = "%s tiles of an unfinished run of another plan (%s) stay in %s/_staging; --fresh drops them"
                log.warning(text, f"{run.done:,}", run.name, self.folder)
                continue
            text = f"{run.done:,} of {run.tiles:,} tiles of an unfinished run of this plan are there"
            if confirm is None:
                log.warning("%s, and are kept; --fresh drops them", text)
            elif not confirm(f"{text}. Keep them?"):
                publish.drop(self.folder, plan.hash)

    def send(self, overwrite: bool) -> bool:
        """Send a finished folder to the object store, and remove it; returns whether there was one to send."""
        if self.store is None or state.finished(self.folder) is None:
            return False
        try:
            with logs.log_stage(log, "send"):
                objects.publish(self.store, self.folder, overwrite)
        except BaseException:
            again = "--resume --overwrite" if overwrite else "--resume"
            log.warning("the table is whole in %s: `geopipe run %s` sends it", self.folder, again)
            raise
        publish.remove(self.folder)
        return True

    def outcome(self, run_id: str, sent: bool) -> str:
        """What a run that a signal ends has published, as a sentence.

        Args:
            run_id: of the run.
            sent: whether the object store has the whole table.
        """
        success = None
        with suppress(GeopipeError):
            success = state.finished(self.folder)
        if self.store is not None and sent:
            return f"the table is finished in {self.store.uri}"
        if success is None or success.get("run_id") != run_id:
            return "nothing was published"
        if self.store is not None:
            return f"the table is whole in {self.folder}, and was not sent to the end"
        return f"the table is finished in {self.folder}"
