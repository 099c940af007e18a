"""Runs as jobs that a database knows: start, pause, resume and stop them.

The monitor's database knows what a run does; Ray knows whether its process lives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg2

from geopipe.engine.address import is_local
from geopipe.errors import GeopipeError, MachineError, PlanError, SettingsError
from geopipe.events.records import new_run_id
from geopipe.export import lock
from geopipe.jobs.checks import refuse_secrets
from geopipe.jobs.submission import RayJob, job_id
from geopipe.monitoring import dead_runs, requests, states
from geopipe.monitoring.database import connections, queries
from geopipe.monitoring.database.follow import reading
from geopipe.monitoring.database.runs import RunRow
from geopipe.monitoring.home import HOME, home, job_dsn_file, write_private
from geopipe.settings.model import Settings
from geopipe.text import clean

T = TypeVar("T")


def prepare(settings: Settings) -> Path | None:
    """Check that a run of these settings can be a job, before a head is started for it; as `prepare_database`.

    Raises:
        SettingsError: the settings switch the database off, or have a secret.
        MachineError: no database can be used.
    """
    if not settings.monitoring.enable_database_logging:
        raise SettingsError(
            "a job is watched, paused and stopped by the database, and monitoring.enable_database_logging is false",
            "set it to true, or use `geopipe run`",
        )
    refuse_secrets(settings)
    return connections.prepare_database()


def start(settings: Settings, address: str, flags: list[str], parent: RunRow | None = None) -> str:
    """Submit a run as a job, and record it as pending; the job makes the plan, on its cluster.

    Args:
        settings: of the run.
        address: of the cluster.
        flags: of `geopipe run`.
        parent: the attempt that this run resumes.

    Returns:
        the id of the run.

    Raises:
        SettingsError: the settings switch the database off, or have a secret.
        MachineError: another run is at work in its output, no database can be used, or no cluster takes the job.
    """
    dsn_file = prepare(settings)
    remove_dsn_files()
    if is_local(address):
        lock.check_free(settings.run.folder)
    run_id, attempt = new_run_id(), parent.attempt + 1 if parent else 1
    job = RayJob(address, job_id(run_id))
    detail: dict[str, Any] = {"name": settings.run.name, "output": settings.run.output, "ray_job_id": job.name}
    detail |= {"settings": settings.model_dump(mode="json"), "parent_run_id": parent.run_id if parent else None}
    dead_runs.record_state(run_id, "pending", detail, attempt)
    command = ["--run-id", run_id, "--attempt", str(attempt), *flags]
    try:
        job.submit(settings, command, _database_of_job(dsn_file, run_id) if job.is_here else {})
    except GeopipeError as error:
        reason = {"type": type(error).__name__, "message": error.message}
        dead_runs.record_state(run_id, "failed", {"exit_code": error.exit_code, "error": reason}, attempt)
        raise
    return run_id


def _database_of_job(dsn_file: Path | None, run_id: str) -> dict[str, str]:
    """The environment that makes a job on this machine use our database: its head may know another, or none.

    Pass the DSN in a file with mode 0600: Ray shows a job's environment to every user of the cluster.
    """
    if dsn_file is None:
        dsn = connections.needed_dsn()
        dsn_file = job_dsn_file(run_id)
        dsn_file.parent.mkdir(parents=True, exist_ok=True)
        write_private(dsn_file, dsn)
    return {HOME: str(home()), connections.DSN: "", connections.DSN_FILE: str(dsn_file)}


def remove_dsn_files() -> None:
    """Remove the DSN files of jobs that have ended: a job that was killed could not do it itself."""
    with suppress(OSError, GeopipeError), reading() as connected:
        for path in home().glob("job-*.dsn"):
            run_id = path.stem.removeprefix("job-")
            with suppress(SettingsError, psycopg2.DataError):  # an unknown run, or no id of a run
                if not queries.run_of(connected, run_id).over:
                    continue
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- requests to a run


def settled(run: RunRow, look: Callable[[], RunRow], address: str) -> RunRow:
    """Record that a pending run has failed if its job has: its process did not live to record it.

    A job that succeeded records nothing here: its run keeps its records in another database.

    Args:
        run: as it was last seen.
        look: reads the run from the database again.
        address: of the cluster.

    Returns:
        the run as it is now.

    Raises:
        MachineError: no cluster answers, or it does not know the job (any more).
    """
    if run.state != "pending" or run.ray_job_id is None:
        return run
    job = RayJob(address, run.ray_job_id).details()
    now = look()  # after its job: a job that has ended records nothing more
    if job.status in ("PENDING", "RUNNING", "SUCCEEDED") or now.state != "pending":
        return now
    reason = (job.message or str(job.status)).strip().splitlines()[0]
    error = {"type": "MachineError", "message": f"its job ended before the run began: {reason}"}
    error["hint"] = f"see `geopipe jobs logs {run.run_id}`"
    dead_runs.record_state(run.run_id, "failed", {"exit_code": job.driver_exit_code or 1, "error": error}, run.attempt)
    return look()


def pause(run: RunRow, look: Callable[[], RunRow], timeout: float) -> RunRow:
    """Pause a run: it commits the tiles in progress, then stops. `resume` continues it.

    Returns:
        the run, once it has paused.

    Raises:
        PlanError: it is not at work.
        MachineError: it has been silent for a minute; or it did not pause in time, and the request stands.
    """
    states.check("pause", clean(run.name), run.state, run.run_id)
    if run.stale:
        raise MachineError(
            f"run {clean(run.name)} has not been heard of for {run.silent or 0:.0f} s, and would not answer",
            f"if its process is gone: `geopipe jobs stop {run.run_id}`, which lets it be resumed",
        )
    requests.send_request(run.run_id, "pause")
    paused = _until(look, lambda now: now.state != "running", timeout)
    if paused is None:
        raise MachineError(
            f"run {clean(run.name)} has not paused in {timeout:g} s: it finishes the tiles at work first",
            "the request stands; watch it with `geopipe monitor watch`, or give a longer --timeout",
        )
    return paused


def stop(run: RunRow, look: Callable[[], RunRow], address: Callable[[], str], timeout: float) -> RunRow:
    """End a run: request it, and let Ray end the process of a job that does not end in time.

    A run that has been silent for a minute counts as ended if no machine knows its process. If it works after all, it
    finds the request.

    Raises:
        PlanError: it has ended already.
        MachineError: it does not answer, and is no job that Ray could end.
    """
    states.check("stop", clean(run.name), run.state, run.run_id)
    with reading() as connected:
        if dead_runs.settle(connected, run.run_id, "cancelled"):
            return look()
    if run.state == "running":
        requests.send_request(run.run_id, "cancel")
        ended = _until(look, lambda now: now.ended, timeout)
        if ended is not None:
            return ended
        if run.ray_job_id is None and not run.stale:
            raise MachineError(
                f"run {clean(run.name)} has not ended in {timeout:g} s, and is no job that could be forced",
                "the request stands; end its process where it runs",
            )
    if run.state != "paused" and run.ray_job_id is not None:
        try:
            RayJob(address(), run.ray_job_id).stop()
            _until(look, lambda now: now.ended, 5.0)  # its driver may have recorded how it ended
        except MachineError:
            if not (run.stale or (run.state == "pending" and run.age > 60)):
                raise
    if not look().ended:
        dead_runs.record_state(run.run_id, "cancelled", {"exit_code": 137}, run.attempt)
    return look()


def _until(look: Callable[[], T], done: Callable[[T], bool], timeout: float) -> T | None:
    """The value of `look`, such as a run, once `done` is true of it; None after `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = look()
        if done(value):
            return value
        time.sleep(0.3)
    return None


def settings_of(run: RunRow) -> Settings:
    """Read the settings of a run from the database.

    Raises:
        SettingsError: they are not there, or another version of geopipe wrote them.
    """
    with closing(connections.connect(connections.needed_dsn())) as connected, connected.cursor() as cursor:
        cursor.execute("SELECT settings::text FROM pipeline_runs WHERE run_id = %s", (run.run_id,))
        row = cursor.fetchone()
    try:
        return Settings.model_validate(json.loads(row[0], parse_int=_whole) if row else None)
    except (ValueError, TypeError):
        raise SettingsError(
            f"the settings of run {clean(run.name)} are not in the database, or are another version's",
            "go on with the file: geopipe run SETTINGS --resume",
        ) from None


def _whole(digits: str) -> int | float:
    """Parse a whole number of jsonb, which writes -3.4e38 with all its digits."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def resume(run: RunRow, address: str) -> str:
    """Submit a run again; it does the tiles that are left. Returns the id of the new attempt.

    Raises:
        PlanError: it is at work, or complete.
    """
    states.check("resume", clean(run.name), run.state, run.run_id)
    return start(settings_of(run), address, ["--resume"], run)


def job_name(run: RunRow) -> str:
    """The name of a run's job in Ray.

    Raises:
        PlanError: the run was not started as a job.
    """
    if run.ray_job_id is None:
        raise PlanError(f"run {clean(run.name)} was not started as a job", "see `geopipe monitor logs` for its records")
    return run.ray_job_id


def job_of(run: RunRow, address: str) -> RayJob:
    """The job of a run.

    Raises:
        PlanError: the run was not started as a job.
        MachineError: no cluster answers at the address.
    """
    return RayJob(address, job_name(run))
