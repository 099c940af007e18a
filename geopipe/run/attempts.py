"""The attempts of a run: execute the plan and commit the table, without layers that break and may be skipped."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from geopipe.engine.contract import Engine, Finish, Keys, Stop
from geopipe.errors import GeopipeError, Paused, RunError, SourceError, WorkersLost, find_signal
from geopipe.events import logs
from geopipe.events.emit import emit
from geopipe.events.records import Event, State
from geopipe.export.ledger import finisher
from geopipe.export.staging import Staging
from geopipe.export.usage import usage_of
from geopipe.load import raster, stamps
from geopipe.monitoring.options import MonitoringOptions
from geopipe.plan.plan import Plan
from geopipe.run.draft import draft, skippable
from geopipe.run.reporting import Reports
from geopipe.run.summary import Clock, Summary
from geopipe.settings.model import Settings
from geopipe.validate.facts import Finding, check_receipts, facts_of

log = logging.getLogger(__name__)

IN_VAIN = 3
"""Times that a run may lose workers without finishing a tile."""


class PauseRequest:
    """A request to pause, which holds for all attempts. A file carries it to every worker."""

    def __init__(self) -> None:
        self._requested, self._file = threading.Event(), Path()

    def request(self) -> None:
        """Pause the attempt at work, or else the next one."""
        self._requested.set()
        if self._file.name:
            self._file.touch()

    def move(self, file: Path) -> None:
        """Use the file of the next attempt."""
        self._file = file
        if self._requested.is_set():
            file.touch()


@dataclass(frozen=True)
class Execution:
    """What the attempts of a run share.

    Attributes:
        overwrite: whether a finished run may be replaced.
        output: folder or URI, for the summary.
    """

    settings: Settings
    monitoring: MonitoringOptions
    overwrite: bool
    output: Path | str
    clock: Clock
    pause: PauseRequest = field(default_factory=PauseRequest)


def execute(run: Execution, plan: Plan, engine: Engine, reports: Reports) -> Summary:
    """Execute a plan to its commit; start over without a layer that breaks and may be skipped.

    Raises:
        Paused: a person paused the run.
        GeopipeError: the run failed; a finished run that was there before is still there.
    """
    done: dict[str, int] = {}
    while True:
        try:
            return _attempt(run, plan, engine, reports, done)
        except SourceError as error:
            error.exit_code = RunError.exit_code  # the settings were sound: the run failed
            reasons = plan.skipped | skippable(run.settings, error, plan.skipped)
        emit(Event("layer_skipped", {"layers": reasons}))
        done = {stage: progress.tiles for stage, progress in reports.stages().items()}
        plan = draft(run.settings, plan.machine, reasons, plan.engine)


def _attempt(run: Execution, plan: Plan, engine: Engine, reports: Reports, done: Mapping[str, int]) -> Summary:
    """Execute a plan to its commit.

    Args:
        done: work of the attempts before this one, by stage.
    """
    settings, monitoring = run.settings, run.monitoring
    staging = Staging(
        settings.run.folder, plan, settings.to_toml(), monitoring.run_id, monitoring.attempt, run.overwrite
    )
    keys = staging.begin(views=settings.report.enabled)
    if len(keys) < len(plan.keys):
        log.warning("%s of %s tiles are there already", len(plan.keys) - len(keys), len(plan.keys))
        emit(Event("run_resumed", {"tiles_there": len(plan.keys) - len(keys)}))
    units = {"read": plan.reads(keys), "merge": len(keys), "write": len(keys)}
    totals = {stage: done.get(stage, 0) + count for stage, count in units.items()}
    emit(State("running", {"plan_hash": plan.hash, "totals": totals}))
    stop = partial(os.path.exists, staging.pause)
    run.pause.move(staging.pause)
    try:
        with logs.log_stage(log, "run"), reports.during(totals):
            finish = finisher(plan, staging.folder, settings.export.rows_at_once)
            _finish_all(engine, staging, keys, finish, stop)
        _raise_if_paused(staging, stop, monitoring.resume_command)
        run.clock.lap("run")
        with raster.environment():
            stamps.refuse_changes(plan)
        report, warnings = _checked(plan, staging, settings.merge.enable_validation)
        report = {"run_id": monitoring.run_id, "name": plan.name, "skipped": plan.skipped} | report
        usage = usage_of(staging.folder)
        with logs.log_stage(log, "commit"):
            counts = staging.commit(report)
        emit(Event("committed", counts))
        run.clock.lap("commit")
        return Summary(
            monitoring.run_id,
            plan,
            run.output,
            rows=counts["rows"],
            files=counts["files"],
            bytes=counts["bytes"],
            seconds=run.clock.laps,
            stages=reports.stages(),
            warnings=warnings,
            usage=usage,
            kept=len(plan.keys) - len(keys),
        )
    except BaseException as error:
        # another source, or another version of geopipe, could use nothing of it
        if isinstance(error, SourceError | RunError):
            staging.discard()
        elif count := staging.leave():
            log.warning("%s of %s tiles are done: %s goes on", count, len(plan.keys), monitoring.resume_command)
        ours = own_error(error)
        if ours is error:
            raise
        raise ours from error


def _finish_all(engine: Engine, staging: Staging, keys: Keys, finish: Finish, stop: Stop) -> None:
    """Have the engine finish tiles, and those that are left again whenever it has lost workers.

    Raises:
        WorkersLost: it has lost workers several times without finishing a tile.
    """
    in_vain = 0
    while True:
        try:
            with closing(engine.run(staging.plan, keys, finish, stop, staging.tries)) as tiles:
                for _ in tiles:
                    pass
            return
        except WorkersLost as loss:
            left = staging.left()
            in_vain = in_vain + 1 if len(left) == len(keys) else 0
            if in_vain == IN_VAIN:
                loss.message += f"; so {in_vain} times without finishing a tile"
                raise
            log.warning("%s: %s of %s tiles are left to do", loss.message, len(left), len(staging.plan.keys))
            keys = left


def _raise_if_paused(staging: Staging, stop: Stop, command: str) -> None:
    """Raise Paused if somebody paused the run and tiles are left to do."""
    done, count = int(staging.ledger().done.sum()), len(staging.plan.keys)
    if stop() and done < count:
        raise Paused(f"paused: {done:,} of {count:,} tiles are done", f"{command} goes on")


def _checked(plan: Plan, staging: Staging, enabled: bool) -> tuple[dict[str, object], tuple[Finding, ...]]:
    """Check the receipts against the plan.

    Args:
        enabled: else nothing is checked.

    Returns:
        what `_SUCCESS` says of the table, and warnings.

    Raises:
        RunError: the table is not what was planned.
    """
    facts = facts_of(plan)
    if not enabled:
        return {"table": facts.describe()}, ()
    with logs.log_stage(log, "validate"):
        findings = check_receipts(facts, staging.ledger().receipts())
    errors = [f"{f.check}: {f.message}" for f in findings if f.level == "error"]
    if errors:
        raise RunError(
            f"the table is not what was planned, {len(errors):,} checks failed; it is not published. "
            + "; ".join(errors[:3] + ["..."] * (len(errors) > 3)),
            "report it with the log: this is a defect of geopipe or of a library. merge.enable_validation = false "
            "publishes the table all the same",
        )
    for finding in findings:
        log.warning("%s: %s", finding.check, finding.message)
    warnings = [{"check": f.check, "message": f.message} for f in findings]
    return {"table": facts.describe(), "warnings": warnings}, tuple(findings)


def own_error(error: BaseException) -> BaseException:
    """The error to raise for `error`: itself if it is one of ours, the signal behind it, or a RunError."""
    if isinstance(error, GeopipeError) or not isinstance(error, Exception):
        return error
    return find_signal(error) or RunError(
        f"the run failed: {type(error).__name__}: {error}", "see the log; nothing was published"
    )
