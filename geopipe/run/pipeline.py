"""The way of a run, from settings to a committed table.

settings -> headers -> plan -> Ray Dataset of reads -> block rows -> merge_tile -> write_tile -> commit -> report
(-> send)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from geopipe import processes
from geopipe.engine import address as addresses
from geopipe.engine.contract import Engine
from geopipe.errors import GeopipeError, noted
from geopipe.events import logs
from geopipe.events.emit import context, emit
from geopipe.events.records import DRIVER, Event, State, new_run_id
from geopipe.export import publish, state
from geopipe.export.lock import locked
from geopipe.monitoring.options import MonitoringOptions
from geopipe.monitoring.recorder import recording, stated
from geopipe.monitoring.requests import Requests, interrupt
from geopipe.plan.estimate import Machine
from geopipe.plan.plan import Plan
from geopipe.run import account
from geopipe.run.attempts import Execution, execute
from geopipe.run.destination import Destination
from geopipe.run.draft import draft, this_machine, versions
from geopipe.run.options import RunOptions, Snapshot, Watch
from geopipe.run.reporting import Reports, monitoring_options
from geopipe.run.summary import Clock, Summary
from geopipe.settings.model import Settings

__all__ = ["RunOptions", "Snapshot", "Summary", "Watch", "run"]

log = logging.getLogger(__name__)


def run(settings: Settings, options: RunOptions = RunOptions(), **changes: Any) -> Summary:  # noqa: B008 - frozen
    """Run the settings to a committed output.

    Tiles that an unfinished run of the same plan has left are kept.

    Args:
        settings: of the run.
        options: how to run them.
        changes: fields of `options` by name, such as resume=True.

    Raises:
        Paused: a person paused the run; `resume` continues it.
        GeopipeError: the run failed; a finished run that was there before is still there.
    """
    options, clock, destination = replace(options, **changes), Clock(), Destination.of(settings)
    before = state.last_unfinished(destination.folder) if options.resume else None
    run_id, attempt = options.run_id or new_run_id(), max(options.attempt, before.attempt + 1 if before else 1)
    monitoring = monitoring_options(settings, run_id, attempt, job=options.run_id is not None)
    detail: dict[str, Any] = {"name": settings.run.name, "output": str(destination.output), "versions": versions()}
    detail |= {"settings": settings.model_dump(mode="json"), "parent_run_id": before.run_id if before else None}
    detail |= _job_of_process()
    requests, sent = Requests(run_id), threading.Event()
    requests.on("cancel", interrupt)

    def plan_for(machine: Machine | None) -> Plan:
        with logs.log_stage(log, "plan"):
            plan = _resumed(settings, destination.finished(), machine) if options.resume else draft(settings, machine)
        if options.resume and not _is_of(destination.finished(), plan):
            state.refuse_resume(destination.folder, plan)
        clock.lap("plan")
        return plan

    with (
        noted(lambda: destination.outcome(run_id, sent.is_set())),
        context(run_id=run_id, attempt=attempt),
        recording(monitoring, requests) as recorder,
        stated(detail) as ending,
        ExitStack() as cluster,
    ):
        # others see by it whether this process lives, and where its last records are
        emit(Event(DRIVER, processes.identity() | {"spool": str(monitoring.folder)}))
        if not options.resume:
            destination.check(options.overwrite)
        plan = _planned(settings, plan_for, cluster, starts=not options.resume)
        with locked(destination.folder, run_id):
            publish.recover(destination.folder)
            success = destination.finished() if options.resume else None
            unfinished = state.unfinished_run(destination.folder, plan.hash)
            overwrite = options.overwrite or (options.resume and unfinished is not None and unfinished.overwrite)
            if success is not None and _is_of(success, plan) and (unfinished is None or not overwrite):
                summary = _analyzed(settings, _finished(success, plan, destination, clock), destination, clock)
                if settings.report.enabled and summary.analyses:
                    summary = replace(summary, report=account.report(destination))
                if destination.send(options.overwrite):
                    clock.lap("send")
                sent.set()
                _complete(summary)
                return summary
            destination.check(overwrite)
            _check_nodes(plan, destination, run_id)
            if not options.resume:
                destination.keep_or_drop(plan, options.fresh, options.confirm)
            job = Execution(settings, monitoring, overwrite, destination.output, clock)
            requests.on("pause", job.pause.request)
            with cluster.pop_all(), _engine(plan, settings, monitoring) as engine:  # Ray ends before the lock
                connected = recorder.connected(engine.receive, engine.stages) if recorder else nullcontext()
                with connected, ending():
                    clock.lap("start")
                    with account.warnings() as warnings:
                        summary = execute(job, plan, engine, Reports(engine, recorder, options.watch))
                    summary = _analyzed(settings, summary, destination, clock)
                    if settings.report.enabled:
                        page = account.report(destination, partial(account.account_of, job, summary, warnings))
                        summary = replace(summary, report=page)
                        clock.lap("report")
                    if destination.send(overwrite):
                        clock.lap("send")
                    sent.set()
                    _complete(summary)
            clock.lap("stop")
    return summary


def _job_of_process() -> dict[str, str]:
    """The name of the Ray job that this process is, as a detail of its run; empty if it is none."""
    job = addresses.job_metadata().get("job_submission_id")
    return {"ray_job_id": job} if job else {}


def _planned(settings: Settings, plan_for: Callable[[Machine | None], Plan], stack: ExitStack, starts: bool) -> Plan:
    """The plan, made for the cluster that exists, or while one of our own starts for a run that is certain to need it.

    Args:
        plan_for: makes the plan for a cluster; for this machine if None.
        stack: leaves the cluster.
        starts: whether Ray may start before there is a plan.
    """
    engine = settings.engine
    if engine.kind == "local" or settings.resampling.old_way:
        return plan_for(None)
    if addresses.existing(engine.address):
        from geopipe.engine.cluster import joined

        return plan_for(stack.enter_context(joined(engine.address, this_machine(settings), engine.workers)))
    if engine.kind == "auto" or not starts:
        return plan_for(None)
    from geopipe.engine.cluster import cluster

    machine, plan = this_machine(settings), Future[Plan]()

    def make() -> None:
        try:
            plan.set_result(plan_for(machine))
        except BaseException as error:  # Ctrl-C, too: Ray starts, and ends as it always does
            plan.set_exception(error)

    stack.enter_context(cluster(None, machine.object_store, make))
    return plan.result()


def _resumed(settings: Settings, success: Mapping[str, Any] | None, machine: Machine | None) -> Plan:
    """The plan of a run to resume, without the layers that it has skipped.

    Args:
        success: `_SUCCESS` of a finished run, whose skipped layers count if the unfinished run has another plan.
    """
    before = state.last_unfinished(settings.run.folder)
    skipped = before.skipped if before else {}
    plan = draft(settings, machine, skipped)
    is_other = before is None or plan.hash != before.plan_hash
    if is_other and success is not None and success.get("skipped", {}) != skipped:
        return draft(settings, machine, success["skipped"])
    return plan


def _analyzed(settings: Settings, summary: Summary, destination: Destination, clock: Clock) -> Summary:
    """The summary with the results of the methods in [analysis], over the committed table.

    Raises:
        GeopipeError: a method failed; the table is finished.
    """
    if not settings.analysis.methods or state.finished(destination.folder) is None:
        return summary
    from geopipe.analysis.stage import analyze_table  # a run without methods must not load pandas
    from geopipe.engine.passes import Kind
    from geopipe.table.table import open_table

    table, address = open_table(destination.folder), settings.engine.address
    engine: Kind = "local" if summary.plan.engine == "local" else "ray"
    try:
        analyses = analyze_table(table, settings.analysis, engine, address, again=False)
    except GeopipeError as error:
        error.message += f"; the table is finished in {destination.folder}"
        raise
    clock.lap("analyze")
    return replace(summary, analyses=tuple(analyses))


def _is_of(success: Mapping[str, Any] | None, plan: Plan) -> bool:
    """Whether a finished run is one of this plan."""
    return success is not None and success["plan_hash"] == plan.hash


def _check_nodes(plan: Plan, destination: Destination, run_id: str) -> None:
    """Refuse sources and a folder that a node of the cluster does not share.

    Raises:
        MachineError: names the node and the file.
    """
    if plan.engine == "ray" and plan.machine.cluster:  # a Ray of our own has one node
        from geopipe.engine.sharing import refuse_unshared

        refuse_unshared(plan, destination.folder, run_id)


def _engine(plan: Plan, settings: Settings, monitoring: MonitoringOptions) -> AbstractContextManager[Engine]:
    """The engine that executes the plan; only its own modules are loaded."""
    if settings.resampling.old_way:
        from geopipe.engine.baseline import old_way

        return old_way(monitoring)
    if plan.engine == "local":
        from geopipe.engine.local import plain_loop

        return plain_loop(monitoring)
    from geopipe.engine.ray import ray_engine

    return ray_engine(settings.engine.address, plan.machine, monitoring)


def _finished(success: Mapping[str, Any], plan: Plan, destination: Destination, clock: Clock) -> Summary:
    """The summary of a run that is finished already."""
    run_id = success.get("run_id", "")
    log.warning("run %s is finished already", run_id)
    return Summary(run_id, plan, destination.output, success["rows"], success["files"], success["bytes"], clock.laps)


def _complete(summary: Summary) -> None:
    """Record the end of the run, while its engine is there to tell those who watch."""
    logs.log_performance(log, "run", sum(summary.seconds.values()), summary.rows, summary.bytes)
    emit(State("completed", {"exit_code": summary.exit_code}))
