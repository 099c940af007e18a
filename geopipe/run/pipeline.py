"""The way of a run, from settings to a committed table, in one place.

settings -> headers -> plan -> Ray Dataset of reads -> block rows -> merge_tile -> write_tile -> commit (-> send)
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from geopipe import processes
from geopipe.engine import address as addresses
from geopipe.engine.baseline import old_way
from geopipe.engine.contract import Engine
from geopipe.engine.local import plain_loop
from geopipe.errors import GeopipeError, MachineError, Paused, PlanError, RunError, SourceError, find_signal, noted
from geopipe.events import logs
from geopipe.events.emit import context, emit
from geopipe.events.records import DRIVER, Event, Progress, State, new_run_id
from geopipe.export import objects, publish, state
from geopipe.export.ledger import finisher
from geopipe.export.lock import locked
from geopipe.export.objects import ObjectStore
from geopipe.export.staging import Staging
from geopipe.load import raster, stamps
from geopipe.monitoring.database import connections
from geopipe.monitoring.forecast import Forecast
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.recorder import Recorder, recording, stated
from geopipe.monitoring.requests import Requests, interrupt
from geopipe.plan.estimate import Machine
from geopipe.plan.plan import Plan
from geopipe.run.draft import draft, skippable, this_machine, versions
from geopipe.settings.load import Settings
from geopipe.validate import facts as checks

log = logging.getLogger(__name__)

Watch = Callable[["Snapshot"], None]


@dataclass(frozen=True)
class Snapshot:
    """How far a run is: work done by stage, and the units that each stage has in all.

    `left` are the seconds that it still needs; None where that is not known.
    """

    stages: Mapping[str, Progress]
    totals: Mapping[str, int]
    seconds: float
    left: float | None = None


@dataclass(frozen=True)
class Summary:
    """What a finished run has made. `seconds` is wall time by step; `stages` the workers' own time by stage.

    `output` is the folder of the table, or the URI of the object store that has it.
    """

    run_id: str
    plan: Plan
    output: Path | str
    rows: int
    files: int
    bytes: int
    seconds: Mapping[str, float]
    stages: Mapping[str, Progress] = field(default_factory=dict)
    warnings: tuple[checks.Finding, ...] = ()

    @property
    def skipped(self) -> dict[str, str]:
        """Reason by name of each layer that was skipped."""
        return self.plan.skipped

    @property
    def exit_code(self) -> int:
        return 4 if self.skipped else 0


def run(
    settings: Settings,
    *,
    overwrite: bool = False,
    resume: bool = False,
    fresh: bool = False,
    local: bool = False,
    watch: Watch | None = None,
    confirm: Callable[[str], bool] | None = None,
    run_id: str | None = None,
    attempt: int = 1,
) -> Summary:
    """Run the settings to a committed output.

    Tiles that an unfinished run of the same plan has left are kept, and not done again.

    Args:
        overwrite: replace a finished run in the output folder.
        resume: go on with a run that was cut short, or refuse to where the plan is not the same; a table that is
            finished but for its way to the object store is only sent.
        fresh: drop what unfinished runs have left in the output, and do all tiles.
        local: use the plain loop instead of Ray.
        watch: called a few times a second with how far the run is.
        confirm: asked whether to keep the tiles of an unfinished run, where `resume` does not say so.
        run_id: by which the run is known to who started it.
        attempt: which one it is at least; what an earlier one has left counts, too.

    Raises:
        Paused: it was asked to, and goes on with `resume`.
        GeopipeError: and nothing that was there before is lost.
    """
    job = run_id is not None
    run_id, clock, folder = run_id or new_run_id(), _Clock(), settings.run.folder
    store = objects.connect(settings.run.store) if settings.run.store else None
    before = state.last_unfinished(folder) if resume else None
    options = watching(settings, run_id, max(attempt, before.attempt + 1 if before else 1), job)
    requests = Requests(run_id)
    requests.on("cancel", interrupt)
    told: dict[str, Any] = {"name": settings.run.name, "output": settings.run.store or str(folder)}
    told |= {"settings": settings.model_dump(mode="json"), "versions": versions()}
    told["parent_run_id"] = before.run_id if before else None
    sent = threading.Event()
    with (
        noted(lambda: _outcome(folder, store, run_id, sent.is_set())),
        context(run_id=run_id, attempt=options.attempt),
        recording(options, requests) as recorder,
        stated(told) as ending,
        _joined(settings, local) as machine,
    ):
        # by which others see whether this process lives, and where its last words are if it does not
        emit(Event(DRIVER, processes.identity() | {"spool": str(options.folder)}))
        if not resume:
            _check(folder, store, overwrite)
        with logs.log_stage(log, "plan"):
            done = _finished(folder, store) if resume else None
            plan = _resumed(settings, done, machine) if resume else draft(settings, machine)
        if resume and (done is None or done["plan_hash"] != plan.hash):
            state.refuse_resume(folder, plan)
        clock.lap("plan")
        with locked(folder, run_id):
            publish.recover(folder)
            done = _finished(folder, store) if resume else None
            left = state.unfinished_run(folder, plan.hash)
            replaces = overwrite or (resume and left is not None and left.overwrite)
            if done is not None and done["plan_hash"] == plan.hash and (left is None or not replaces):
                made = done.get("run_id", "")
                log.warning("run %s is finished already", made)
                output = settings.run.store or folder
                summary = Summary(made, plan, output, done["rows"], done["files"], done["bytes"], clock.laps)
                _send(store, folder, overwrite, clock)
                sent.set()
                _complete(summary)
            else:
                _check(folder, store, replaces)
                if not resume:
                    _keep_or_drop(folder, plan, fresh, confirm)
                with _engine(plan, settings, options, local) as engine, _sending(recorder, engine), ending():
                    clock.lap("start")

                    def counted() -> Mapping[str, Progress]:
                        if recorder is not None:
                            recorder.shipper.ship(2.0)
                        return engine.stages()

                    summary = _attempts(settings, plan, engine, options, replaces, clock, watch, requests, counted)
                    _send(store, folder, replaces, clock)
                    sent.set()
                    _complete(summary)
                clock.lap("stop")
        return summary


def _outcome(folder: Path, store: ObjectStore | None, run_id: str, sent: bool) -> str:
    """What a run has come to that is ended by a signal."""
    done = None
    with suppress(GeopipeError):
        done = state.finished(folder)
    if store is not None and sent:
        return f"the table is finished in {store.uri}"
    if done is None or done.get("run_id") != run_id:
        return "nothing was published"
    if store is not None:
        return f"the table is whole in {folder}, and was not sent to the end"
    return f"the table is finished in {folder}"


def _keep_or_drop(folder: Path, plan: Plan, fresh: bool, confirm: Callable[[str], bool] | None) -> None:
    """Say what unfinished runs have left in the output; that of the same plan is kept, unless it is not wanted."""
    if fresh:
        publish.drop(folder)
    for run in state.readable_runs(folder):
        if not run.done:
            publish.drop(folder, run.plan_hash)
            continue
        if run.plan_hash != plan.hash:
            told = "%s tiles of an unfinished run of another plan (%s) stay in %s/_staging; --fresh drops them"
            log.warning(told, f"{run.done:,}", run.name, folder)
            continue
        told = f"{run.done:,} of {run.tiles:,} tiles of an unfinished run of this plan are there"
        if confirm is None:
            log.warning("%s, and are kept; --fresh drops them", told)
        elif not confirm(f"{told}. Keep them?"):
            publish.drop(folder, plan.hash)


@contextmanager
def _joined(settings: Settings, local: bool) -> Iterator[Machine | None]:
    """The cluster that the run joins, as what there is to run on, so that the plan is made for it; None without one."""
    address = addresses.requested(settings.engine.address)
    ray = sys.modules.get("ray")  # planning and the plain loop must not load it
    if local or settings.resampling.old_way or (address == "local" and not (ray and ray.is_initialized())):
        yield None
        return
    from geopipe.engine.cluster import joined

    with joined(settings.engine.address, this_machine(settings)) as machine:
        yield machine


def _complete(summary: Summary) -> None:
    """Say what the run has made; while its engine is there, so that those who watch it hear of it."""
    logs.log_performance(log, "run", sum(summary.seconds.values()), summary.rows, summary.bytes)
    emit(State("completed", {"exit_code": summary.exit_code}))


def _sending(recorder: Recorder | None, engine: Engine) -> AbstractContextManager[None]:
    return nullcontext() if recorder is None else recorder.connected(engine.receive, engine.stages)


def watching(settings: Settings, run_id: str, attempt: int, job: bool = False) -> MonitoringOptions:
    """How a run of these settings is watched; starts a database of our own where there is to be one."""
    asked, dsn_file, problem = settings.monitoring, None, ""
    database = asked.enable_database_logging
    if database:
        try:
            dsn_file = connections.prepare_database()
        except MachineError as error:
            problem, database = str(error), connections.named()  # that one may answer before the run has ended
    alone = addresses.runs_on_one_machine(settings.engine.address)
    return MonitoringOptions(
        run_id=run_id,
        attempt=attempt,
        output=settings.run.folder,
        database=database,
        batch_size=asked.log_batch_size,
        flush_interval=asked.log_flush_interval,
        metrics_interval=asked.metrics_interval if asked.enable_metrics else None,
        prometheus_port=asked.prometheus_port,
        spool_bytes=asked.spool_bytes,
        dsn_file=dsn_file,
        problem=problem,
        job=job,
        prometheus_host=asked.prometheus_host or ("127.0.0.1" if alone else "0.0.0.0"),
    )


def _check(folder: Path, store: ObjectStore | None, overwrite: bool) -> None:
    """Refuse an output, and the folder where the run works, before anything is done."""
    if store is not None:
        objects.check(store, overwrite)
        if state.is_finished(folder) and not overwrite:
            raise PlanError(
                f"run.staging = {folder} holds a finished run that was not sent to the end",
                "send it with --resume, replace it with --overwrite, or choose another run.staging",
            )
    publish.check_output(folder, overwrite)


def _finished(folder: Path, store: ObjectStore | None) -> dict[str, Any] | None:
    """What the `_SUCCESS` of a finished run says: one that is to be sent, else one that is in the output."""
    done = state.finished(folder)
    return objects.finished(store) if done is None and store is not None else done


def _resumed(settings: Settings, done: Mapping[str, Any] | None, machine: Machine | None) -> Plan:
    """The plan of a run to go on with, without the layers that it has skipped; `done` is one that is finished."""
    before = state.last_unfinished(settings.run.folder)
    first = before.skipped if before else {}
    plan = draft(settings, machine, first)
    if (before is None or plan.hash != before.plan_hash) and done is not None and done.get("skipped", {}) != first:
        return draft(settings, machine, done["skipped"])
    return plan


def _send(store: ObjectStore | None, folder: Path, overwrite: bool, clock: _Clock) -> None:
    """Send a finished run in the folder to the store, if there is one, and remove it from the folder."""
    if store is None or state.finished(folder) is None:
        return
    try:
        with logs.log_stage(log, "send"):
            objects.publish(store, folder, overwrite)
    except BaseException:
        again = "--resume --overwrite" if overwrite else "--resume"
        log.warning("the table is whole in %s: `geopipe run %s` sends it", folder, again)
        raise
    publish.remove(folder)
    clock.lap("send")


def _attempts(
    settings: Settings,
    plan: Plan,
    engine: Engine,
    options: MonitoringOptions,
    overwrite: bool,
    clock: _Clock,
    watch: Watch | None,
    requests: Requests,
    counted: Callable[[], Mapping[str, Progress]],
) -> Summary:
    """Run a plan to its commit; where a bad source may be skipped, start over without it.

    Args:
        overwrite: whether a finished run may be replaced.
        counted: progress by stage, after what is on its way has arrived. It goes on over all attempts.
    """
    output = settings.run.store or settings.run.folder
    pausing, begin, before = threading.Event(), time.perf_counter(), dict[str, int]()
    while True:
        staging = Staging(settings.run.folder, plan, settings.to_toml(), options.run_id, options.attempt, overwrite)
        keys = staging.begin()
        if len(keys) < len(plan.keys):
            log.warning("%s of %s tiles are there already", len(plan.keys) - len(keys), len(plan.keys))
            emit(Event("run_resumed", {"tiles_there": len(plan.keys) - len(keys)}))
        totals = {"read": plan.reads(keys), "merge": len(keys), "write": len(keys)}
        totals = {stage: before.get(stage, 0) + count for stage, count in totals.items()}
        emit(State("running", {"plan_hash": plan.hash, "totals": totals}))
        stop = partial(os.path.exists, staging.pause)
        requests.on("pause", partial(_ask_to_pause, staging, pausing))
        if pausing.is_set():  # an attempt that is over
            staging.pause.touch()
        try:
            with logs.log_stage(log, "run"), _watching(totals, engine, watch, begin):
                finish = finisher(plan, staging.folder, settings.export.rows_at_once)
                with closing(engine.run(plan, keys, finish, stop)) as tiles:
                    for _ in tiles:
                        pass
            _refuse_pause(staging, stop, options.resume_command)
            clock.lap("run")
            with raster.environment():
                stamps.refuse_changes(plan)
            report = {"run_id": options.run_id, "name": plan.name, "skipped": plan.skipped}
            checked, warnings = _checked(plan, staging, settings.merge.enable_validation)
            with logs.log_stage(log, "commit"):
                totals = staging.commit(report | checked)
            emit(Event("committed", totals))
            clock.lap("commit")
            rows, files, size = (totals[name] for name in ("rows", "files", "bytes"))
            return Summary(options.run_id, plan, output, rows, files, size, clock.laps, counted(), warnings)
        except BaseException as error:
            # with another source, or another version of geopipe, nothing of it could be used again
            if isinstance(error, SourceError | RunError):
                staging.discard()
            else:
                _leave(staging, options.resume_command)
            if not isinstance(error, SourceError):
                raise _as_ours(error) from error
            error.exit_code = RunError.exit_code  # the settings were sound: what failed is the run
            reasons = plan.skipped | skippable(settings, error, plan.skipped)
            emit(Event("layer_skipped", {"layers": reasons}))
        before = {stage: done.tiles for stage, done in counted().items()}
        plan = draft(settings, plan.machine, reasons)


def _ask_to_pause(staging: Staging, pausing: threading.Event) -> None:
    pausing.set()
    staging.pause.touch()


def _refuse_pause(staging: Staging, stop: Callable[[], bool], command: str) -> None:
    """Raise Paused where the run was asked to pause, and tiles are left to do."""
    done, all_of_them = int(staging.ledger().done.sum()), len(staging.plan.keys)
    if stop() and done < all_of_them:
        raise Paused(f"paused: {done:,} of {all_of_them:,} tiles are done", f"{command} goes on")


def _leave(staging: Staging, command: str) -> None:
    """Leave what a failed run has done, and say how to go on."""
    done = staging.leave()
    if done:
        log.warning("%s of %s tiles are done: %s goes on", done, len(staging.plan.keys), command)


def _checked(plan: Plan, staging: Staging, enabled: bool) -> tuple[dict[str, object], tuple[checks.Finding, ...]]:
    """What `_SUCCESS` says of the table and its warnings, and the warnings.

    Raises:
        RunError: the table is not what was planned.
    """
    facts = checks.facts_of(plan)
    if not enabled:
        return {"table": facts.describe()}, ()
    with logs.log_stage(log, "validate"):
        findings = checks.check_receipts(facts, staging.ledger().receipts())
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
    told = [{"check": f.check, "message": f.message} for f in findings]
    return {"table": facts.describe(), "warnings": told}, tuple(findings)


def _engine(plan: Plan, settings: Settings, options: MonitoringOptions, local: bool) -> AbstractContextManager[Engine]:
    if settings.resampling.old_way:
        return old_way(options)
    if local:
        return plain_loop(options)
    from geopipe.engine.ray import ray_engine  # planning and the plain loop must not load Ray

    return ray_engine(settings.engine.address, plan.machine, options)


@contextmanager
def _watching(totals: Mapping[str, int], engine: Engine, watch: Watch | None, begin: float) -> Iterator[None]:
    """Tell how long the run still needs, and call `watch`, in a thread, and once after that: never twice at a time."""
    ended, forecast = threading.Event(), Forecast()

    def snapshot() -> Snapshot:
        stages = engine.stages()
        left = forecast(stages, totals)
        forecast.tell(left)
        return Snapshot(stages, totals, time.perf_counter() - begin, left)

    def tick() -> None:
        while not ended.wait(0.25 if watch else 1.0):
            seen = snapshot()
            if watch:
                watch(seen)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if watch:
        watch(snapshot())


class _Clock:
    """Wall seconds by step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _as_ours(error: BaseException) -> BaseException:
    """The error to raise for `error`: one of ours, or the signal that it is, or comes from."""
    if isinstance(error, GeopipeError) or not isinstance(error, Exception):
        return error
    return find_signal(error) or RunError(
        f"the run failed: {type(error).__name__}: {error}", "see the log; nothing was published"
    )
