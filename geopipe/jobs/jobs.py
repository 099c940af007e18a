"""Runs as jobs of a Ray cluster, by Ray's Jobs API: submitted there, and asked to pause, go on or end.

The cluster is the one that is told, or a head of our own on this machine, which stays up for the next job. What a run
is doing, the database knows (`watching`); Ray knows whether its process lives.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2

from geopipe.engine import heads
from geopipe.errors import GeopipeError, MachineError, PlanError, SettingsError, first_line
from geopipe.events.records import new_run_id
from geopipe.export import lock
from geopipe.monitoring import departed, requests, states
from geopipe.monitoring.database import connections, queries
from geopipe.monitoring.database import follow as following
from geopipe.monitoring.database.runs import Run
from geopipe.monitoring.home import HOME, home
from geopipe.monitoring.recorder import dsn_file_of, prepare_database
from geopipe.run import draft
from geopipe.settings.load import Settings
from geopipe.text import clean

PATIENCE = 60.0
"""Seconds that a head may take to start, and to be ready for jobs."""


# ---------------------------------------------------------------- the cluster


def cluster(address: str | None, start: bool = False) -> str:
    """The address of the cluster for jobs: what is told, or RAY_ADDRESS, or the head on this machine.

    Args:
        start: a head here where there is none; else there must be one, because a job of it is meant.

    Raises:
        MachineError: there is none, or it is elsewhere and no token protects it.
    """
    told = address or os.environ.get("RAY_ADDRESS") or "local"
    if told in ("auto", "local"):
        found = heads.own() or (heads.start(draft.OBJECT_STORE) if start else None)
        if found is None:
            raise MachineError(
                "no Ray head of geopipe runs on this machine (any more)", "name the job's cluster by --address"
            )
        told = found
    heads.use_token(told)
    asked = os.environ.get("RAY_AUTH_MODE") == "token"
    if asked and not heads.has_token():  # Ray would end this process
        raise MachineError(
            "RAY_AUTH_MODE is token, and there is no token",
            "set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has it, or unset RAY_AUTH_MODE",
        )
    if not asked and not heads.is_here(told):
        raise MachineError(
            f"the cluster at {told} is beyond this machine, and no token would protect what is submitted to it",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) as the cluster has them",
        )
    return told


def _client(address: str) -> Any:
    """Ray's client for jobs.

    Raises:
        MachineError: no cluster answers there.
    """
    from ray.job_submission import JobSubmissionClient  # loads half of Ray, which asking the database must not

    try:
        host, port = heads.place(address)
        if host and port:  # Ray itself would try for a minute
            socket.create_connection((host, port), timeout=10).close()
        client = JobSubmissionClient(address)
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)  # how it packs and sends is of no concern here
        return client
    except Exception as error:  # Ray raises what it meets: RuntimeError, ConnectionError, AuthenticationError
        raise MachineError(
            f"no Ray cluster takes jobs at {address}: {first_line(error)}",
            "start one (`ray start --head`), or correct --address or RAY_ADDRESS",
        ) from None


def shutdown(force: bool) -> int:
    """End our own head on this machine; how many processes it had.

    Args:
        force: also where jobs are at work on it.

    Raises:
        PlanError: jobs are at work on it.
        MachineError: an older geopipe started it.
    """
    address = heads.own()
    if address is not None and not force:
        with suppress(MachineError):  # one that does not answer has no jobs that could be saved
            at_work = [
                job.submission_id for job in _client(cluster(address)).list_jobs() if not job.status.is_terminal()
            ]
            if at_work:
                raise PlanError(
                    f"{len(at_work)} jobs are at work on the head at {address}: {', '.join(map(str, at_work[:3]))}",
                    "wait, stop them with `geopipe jobs stop`, or give --force",
                )
    ended = heads.shutdown()
    for path in home().glob("job-*.dsn"):  # of jobs that worked there
        path.unlink(missing_ok=True)
    return ended


# ---------------------------------------------------------------- start


def prepare(settings: Settings) -> Path | None:
    """See that a run of these settings can be noted, as `prepare_database`; before a head is started for it.

    Raises:
        SettingsError: the run would tell nobody what becomes of it.
        MachineError: there is no database to note it in.
    """
    if not settings.monitoring.enable_database_logging:
        raise SettingsError(
            "a job is watched, paused and stopped by the database, and monitoring.enable_database_logging is false",
            "set it to true, or use `geopipe run`",
        )
    return prepare_database()


def start(settings: Settings, address: str, how: list[str], before: Run | None = None) -> str:
    """Submit a run, and note it as pending; returns its id.

    Args:
        how: flags of `geopipe run`.
        before: the attempt that it goes on from.

    Raises:
        SettingsError: the run would tell nobody what becomes of it.
        MachineError: another run is at work in its output, there is no database to note it in, or no cluster takes it.
    """
    file, here = prepare(settings), heads.is_here(address)
    remove_dsn_files()
    if here:
        lock.check_free(settings.run.folder)
    client, run_id = _client(address), new_run_id()
    python = [sys.executable, "-m", "geopipe"] if here else ["geopipe"]
    with tempfile.TemporaryDirectory() as folder:
        engine = settings.engine.model_copy(update={"address": None})  # a job is in its cluster already
        alone = settings.model_copy(update={"engine": engine})
        (Path(folder) / "settings.toml").write_text(alone.to_toml(secrets=True), encoding="utf-8")
        attempt = before.attempt + 1 if before else 1
        ours = ["--run-id", run_id, "--attempt", str(attempt)]
        command = shlex.join([*python, "run", "settings.toml", *ours, *how])
        told: dict[str, Any] = {"name": settings.run.name, "output": settings.run.output}
        told["ray_job_id"] = job_id(run_id)
        told |= {"settings": settings.model_dump(mode="json"), "parent_run_id": before.run_id if before else None}
        departed.note(run_id, "pending", told, attempt)
        env_vars = _database_of_job(file, run_id) if here else {}
        try:
            _retried(
                lambda: client.submit_job(
                    entrypoint=command,
                    submission_id=job_id(run_id),
                    runtime_env={"working_dir": folder, "env_vars": env_vars},
                    metadata={"geopipe_run": run_id, "name": settings.run.name},
                )
            )
        except Exception as error:  # as in `_client`
            message = f"the cluster at {address} did not take the job: {first_line(error)}"
            departed.note(
                run_id, "failed", {"exit_code": 3, "error": {"type": "MachineError", "message": message}}, attempt
            )
            raise MachineError(message, "see the log of Ray's dashboard agent") from None
    return run_id


def _database_of_job(file: Path | None, run_id: str) -> dict[str, str]:
    """What has a job on this machine keep its records in our database: its head may know another, or none.

    An address with its password goes by a file: what a job is told, everybody reads who sees the cluster.
    """
    if file is None:
        dsn = connections.needed_dsn()
        file = dsn_file_of(run_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as held:
            held.write(dsn)
    return {HOME: str(home()), connections.DSN: "", connections.DSN_FILE: str(file)}


def remove_dsn_files() -> None:
    """Remove the addresses of those jobs that have ended: a job that was killed could not do it itself."""
    with suppress(OSError, GeopipeError), following.reading() as connected:
        for path in home().glob("job-*.dsn"):
            run_id = path.stem.removeprefix("job-")
            with suppress(SettingsError, psycopg2.DataError):  # nobody knows this run, or it is no id of one
                if not queries.run_of(connected, run_id).over:
                    continue
            path.unlink(missing_ok=True)


def job_id(run_id: str) -> str:
    """The name of a run's job in Ray."""
    return f"geopipe-{run_id}"


def _retried(submit: Callable[[], object]) -> None:
    """Submit; a head that has just started has no agent for jobs yet."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            submit()
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(1)


# ---------------------------------------------------------------- what is asked of a run


def settled(run: Run, look: Callable[[], Run], address: str) -> Run:
    """A run; a pending one whose job has failed has failed, which its process did not live to say.

    Of a job that did well nothing is noted: its run keeps its records where this database is not.

    Raises:
        MachineError: no cluster answers, or it does not know the job (any more).
    """
    if run.state != "pending" or run.ray_job_id is None:
        return run
    job = _info(run, address)
    now = look()  # after its job: one that has ended says no more
    if job.status in ("PENDING", "RUNNING", "SUCCEEDED") or now.state != "pending":
        return now
    reason = (job.message or str(job.status)).strip().splitlines()[0]
    said = f"its job ended before the run began: {reason}"
    told = {"type": "MachineError", "message": said, "hint": f"see `geopipe jobs logs {run.run_id}`"}
    departed.note(run.run_id, "failed", {"exit_code": job.driver_exit_code or 1, "error": told}, run.attempt)
    return look()


def pause(run: Run, look: Callable[[], Run], timeout: float) -> Run:
    """Ask a run to finish what is in its hands and to wait; returns it when it does.

    Raises:
        PlanError: it is not at work.
        MachineError: nobody has heard of it for a minute; or it did not answer in time, and the request stands.
    """
    states.check("pause", clean(run.name), run.state, run.run_id)
    if run.stale:
        raise MachineError(
            f"run {clean(run.name)} has not been heard of for {run.silent or 0:.0f} s, and would not answer",
            f"if its process is gone: `geopipe jobs stop {run.run_id}`, which lets it be resumed",
        )
    requests.ask(run.run_id, "pause")
    found = _until(look, lambda now: now.state != "running", timeout)
    if found is None:
        raise MachineError(
            f"run {clean(run.name)} has not paused in {timeout:g} s: it finishes the tiles at work first",
            "the request stands; watch it with `geopipe monitor watch`, or give a longer --timeout",
        )
    return found


def stop(run: Run, look: Callable[[], Run], address: Callable[[], str], timeout: float) -> Run:
    """End a run: ask it, and where it does not answer in time, have Ray end its process.

    One that has not been heard of for a minute is taken for ended where nobody knows its process. If it works after
    all, it finds the request.

    Raises:
        PlanError: it has ended already.
        MachineError: it does not answer, and is no job that Ray could end.
    """
    states.check("stop", clean(run.name), run.state, run.run_id)
    with following.reading() as connected:
        if departed.settle(connected, run.run_id, "cancelled"):
            return look()
    if run.state == "running":
        requests.ask(run.run_id, "cancel")
        found = _until(look, lambda now: now.ended, timeout)
        if found is not None:
            return found
        if run.ray_job_id is None and not run.stale:
            raise MachineError(
                f"run {clean(run.name)} has not ended in {timeout:g} s, and is no job that could be forced",
                "the request stands; end its process where it runs",
            )
    if run.state != "paused" and run.ray_job_id is not None:
        try:
            _end_job(_client(address()), run.ray_job_id)
            _until(look, lambda now: now.ended, 5.0)  # its driver may yet have told how it ended
        except MachineError:
            if not (run.stale or (run.state == "pending" and run.age > 60)):
                raise
    if not look().ended:
        departed.note(run.run_id, "cancelled", {"exit_code": 137}, run.attempt)
    return look()


def _end_job(client: Any, job: str) -> None:
    """SIGTERM, and SIGKILL after some seconds; returns when the process is gone."""
    try:
        client.stop_job(job)
        end = time.monotonic() + 20
        while not client.get_job_status(job).is_terminal() and time.monotonic() < end:
            time.sleep(0.2)
    except Exception as error:  # as in `_client`
        if "does not exist" not in str(error):
            raise MachineError(f"Ray cannot end job {job}: {first_line(error)}", "see Ray's dashboard") from None


def _until(look: Callable[[], Run], done: Callable[[Run], bool], timeout: float) -> Run | None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = look()
        if done(found):
            return found
        time.sleep(0.3)
    return None


def settings_of(run: Run) -> Settings:
    """The settings that a run was started with.

    Raises:
        SettingsError: the database has none of it, or of another version of geopipe.
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
    """A whole number of jsonb, which writes -3.4e38 with all its digits."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def resume(run: Run, address: str) -> str:
    """Submit a run again, to go on by its receipts; returns the id of the new attempt.

    Raises:
        PlanError: it is at work, or complete.
    """
    states.check("resume", clean(run.name), run.state, run.run_id)
    return start(settings_of(run), address, ["--resume"], run)


def exit_code(run: Run, address: str) -> int:
    """The code that the process of a job has ended with, as Ray knows it; 1 where it does not.

    Raises:
        MachineError: as `settled`.
    """
    code = _info(run, address).driver_exit_code
    return 1 if code is None else int(code)


def _info(run: Run, address: str) -> Any:
    """What Ray knows of the job of a run."""
    client = _client(address)
    try:
        return client.get_job_info(run.ray_job_id)
    except Exception as error:  # as in `_client`
        raise MachineError(
            f"the cluster at {address} says nothing of job {run.ray_job_id}: {first_line(error)}",
            "name the job's cluster by --address",
        ) from None


def output(run: Run, address: str, follow: bool) -> Iterator[str]:
    """What a job has printed; `follow`: also what it prints until it ends.

    Raises:
        PlanError: the run is no job.
        MachineError: the cluster does not know it (any more).
    """
    if run.ray_job_id is None:
        raise PlanError(f"run {clean(run.name)} was not started as a job", "see `geopipe monitor logs` for its records")
    client, shown = _client(address), 0
    while True:
        try:
            ended = client.get_job_status(run.ray_job_id).is_terminal()
            text = client.get_job_logs(run.ray_job_id)
        except Exception as error:  # as in `_client`
            raise MachineError(
                f"the cluster at {address} says nothing of the job of run {clean(run.name)}: {first_line(error)}",
                "see `geopipe monitor logs`, whose records outlive the cluster",
            ) from None
        if text[shown:]:
            yield text[shown:]
        shown = len(text)
        if ended or not follow:
            return
        time.sleep(0.5)
