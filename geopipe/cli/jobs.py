"""`geopipe jobs`: start, pause, resume and stop runs as jobs of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geopipe.cli.options import file_argument, json_option, print_json, set_option
from geopipe.errors import MachineError, find_signal, noted

if TYPE_CHECKING:
    from geopipe.jobs.submission import RayJob
    from geopipe.monitoring.database.runs import RunRow

F = TypeVar("F", bound=Callable[..., Any])

run_argument = click.argument("run", metavar="RUN", default="latest")
address_option = click.option("--address", help="The Ray cluster (else RAY_ADDRESS, else a head on this machine).")

interrupt_option = click.option(
    "--on-interrupt",
    type=click.Choice(["detach", "stop"]),
    default="detach",
    show_default=True,
    help="What Ctrl-C does: leave the job at work, or stop it. A second Ctrl-C leaves at once.",
)


def timeout_option(seconds: float, what: str) -> Callable[[F], F]:
    """The option --timeout of a command that waits for a run."""
    return click.option("--timeout", type=click.FloatRange(min=0), default=seconds, show_default=True, help=what)


@click.group("jobs")
def jobs_group() -> None:
    """Run as a job of a Ray cluster: start, pause, resume, stop.

    Without a cluster a Ray head is started on this machine; it stays for the next job until `geopipe cluster down`.
    RUN is a run's id, the start of one, its name, or latest.
    """


@contextmanager
def _lookup(name: str, settle: bool = True) -> Iterator[tuple[RunRow, Callable[[], RunRow]]]:
    """Look up a run. Yields the run, and a function that looks it up again.

    Args:
        name: id, start of an id, name, or "latest".
        settle: record first the end of runs whose processes have died on this machine.
    """
    from geopipe.monitoring import dead_runs
    from geopipe.monitoring.database import follow, queries

    with follow.reading() as connected:
        if settle:
            dead_runs.settle(connected)
        run = queries.find_run(connected, name)
        yield run, lambda: queries.run_of(connected, run.run_id)


@jobs_group.command(epilog="Example: geopipe jobs start mine.toml --daemon")
@file_argument
@click.option("--name", help="Name of the run (else run.name of the settings).")
@click.option("--daemon", is_flag=True, help="Return at once; else print the job's output and exit with its code.")
@click.option("--overwrite", is_flag=True, help="Replace a finished run in the output folder.")
@click.option("--resume", is_flag=True, help="Continue a run that was cut short.")
@click.option("--fresh", is_flag=True, help="Delete the tiles of runs that were cut short.")
@set_option
@address_option
@interrupt_option
@json_option
def start(
    file: Path,
    name: str | None,
    daemon: bool,
    flags: tuple[str, ...],
    address: str | None,
    on_interrupt: str,
    as_json: bool,
    **options: bool,
) -> int:
    """Submit a run as a job of the cluster.

    SETTINGS is a TOML file. It is checked here; the job then does what `geopipe run` would do on the cluster.
    """
    from geopipe.cli import progress
    from geopipe.cli.screen import console
    from geopipe.jobs import jobs
    from geopipe.settings import load

    settings = load.load(file, (*flags, *([f"run.name={name}"] if name else [])))
    if options["fresh"] and options["resume"]:
        raise click.UsageError("--fresh deletes what --resume continues: give one of them")
    with progress.notes(console(stderr=True)):
        jobs.prepare(settings)
    where = _cluster(address or settings.engine.address)
    run_id = jobs.start(settings, where, [f"--{option}" for option, active in options.items() if active])
    return _submitted(run_id, where, daemon, as_json, on_interrupt)


def _cluster(address: str | None) -> str:
    """The address of the cluster for a job. Starts a head on this machine if there is no cluster, and says so."""
    from geopipe.jobs import head, local

    before = local.alive()
    where = head.cluster(address, start=True)
    if before is None and (own := local.alive()) and where == own.address:
        click.echo(f"started a Ray head on this machine ({where}); end it: geopipe cluster down", err=True)
    return where


def _submitted(run_id: str, where: str, daemon: bool, as_json: bool, on_interrupt: str) -> int:
    from geopipe.jobs.submission import job_id

    if as_json:
        print_json({"run_id": run_id, "job": job_id(run_id), "address": where})
    else:
        click.echo(f"run {run_id} is job {job_id(run_id)} of {where}", err=not daemon)
        if daemon:
            click.echo(f"watch it: geopipe monitor watch {run_id}   stop it: geopipe jobs stop {run_id}")
    return 0 if daemon or as_json else _follow(run_id, where, on_interrupt)


def _follow(name: str, where: str, on_interrupt: str) -> int:
    """Print the output of a job until it ends. Returns the exit code of its run."""
    from geopipe.jobs import jobs
    from geopipe.jobs.submission import NOT_FOUND

    with _lookup(name) as (run, _):
        job = jobs.job_of(run, where)
    advice = f"follow it: geopipe jobs logs -f {run.run_id}; stop it: geopipe jobs stop {run.run_id}"
    follow(job, on_interrupt, advice, show)
    with _lookup(run.run_id) as (run, look):  # a connection could not have outlived a job of days
        code = jobs.settled(run, look, where).exit_code
    return job.exit_code() if code in (None, NOT_FOUND) else code


def show(text: str) -> None:
    """Print a piece of a job's output on standard output."""
    click.echo(text, nl=False)


def follow(job: RayJob, on_interrupt: str, advice: str, show: Callable[[str], None]) -> None:
    """Show the output of a job until it ends.

    Args:
        job: which job.
        on_interrupt: "detach" leaves it at work when a signal ends this process, "stop" stops it and shows the rest.
        advice: how to follow and to stop a job that goes on.
        show: prints a piece of the output.
    """
    try:
        for text in job.follow():
            show(text)
    except BaseException as error:
        arrived = find_signal(error)
        if arrived is None:
            raise
        if on_interrupt == "detach":
            arrived.add_note(f"the job goes on; {advice}")
            raise
        with noted(lambda: f"the job may go on; {advice}"):
            click.echo(f"stopping job {job.name}", err=True)
            job.stop()
            for text in job.follow():
                show(text)
        arrived.add_note(f"job {job.name} has stopped; --resume continues its run")
        raise


@jobs_group.command(epilog="Example: geopipe jobs logs latest --follow")
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Wait for the end of the job, and exit with the code of its run.")
@address_option
def logs(run: str, follow: bool, address: str | None) -> int:
    """Print the output of a job.

    RUN is a run's id, the start of one, its name, or latest. `geopipe monitor logs` has the records of the run, with
    level, layer and tile.
    """
    from geopipe.jobs import head, jobs

    with _lookup(run) as (row, _):
        jobs.job_name(row)  # a run that is no job needs no cluster
        where = head.cluster(address)
        if not follow:
            show(jobs.job_of(row, where).printed())
    return _follow(row.run_id, where, "detach") if follow else 0


@jobs_group.command(epilog="Example: geopipe jobs status latest")
@run_argument
@address_option
@json_option
def status(run: str, address: str | None, as_json: bool) -> None:
    """Show state, progress and requests of a run.

    RUN is a run's id, the start of one, its name, or latest. For a pending run the cluster is asked, too: its job may
    have ended before the run began.
    """
    from geopipe.jobs import head, jobs

    with _lookup(run) as (row, look):
        if row.state == "pending" and row.ray_job_id is not None:
            with suppress(MachineError):
                row = jobs.settled(row, look, head.cluster(address))
        _print(row, as_json)


@jobs_group.command("list", epilog="Example: geopipe jobs list --limit 5")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the newest first.")
@json_option
def list_jobs(limit: int, as_json: bool) -> None:
    """List the runs that were started as jobs."""
    from geopipe.monitoring import dead_runs
    from geopipe.monitoring.database import follow, queries

    with follow.reading() as connected:
        dead_runs.settle(connected)
        rows = [run for run in queries.runs(connected) if run.ray_job_id is not None][:limit]
    if as_json:
        print_json([_as_json(run) for run in rows])
    elif rows:
        _show(rows)
    else:
        click.echo("no run was started as a job; start one: geopipe jobs start SETTINGS")


@jobs_group.command(epilog="Example: geopipe jobs pause latest")
@run_argument
@timeout_option(60, "Seconds to wait for the pause.")
@json_option
def pause(run: str, timeout: float, as_json: bool) -> None:
    """Pause a run: commit the tiles in progress, then stop.

    RUN is a run's id, the start of one, its name, or latest. `geopipe jobs resume` continues it.
    """
    from geopipe.jobs import jobs

    with _lookup(run) as (row, look):
        _print(jobs.pause(row, look, timeout), as_json)


@jobs_group.command(epilog="Example: geopipe jobs resume latest")
@run_argument
@click.option("--daemon", is_flag=True, help="Return at once.")
@address_option
@interrupt_option
@json_option
def resume(run: str, daemon: bool, address: str | None, on_interrupt: str, as_json: bool) -> int:
    """Continue a run that was paused, stopped or failed.

    RUN is a run's id, the start of one, its name, or latest. A new attempt does the tiles that are missing.
    """
    from geopipe.jobs import jobs

    with _lookup(run) as (row, _):
        where = _cluster(address)
        run_id = jobs.resume(row, where)
    return _submitted(run_id, where, daemon, as_json, on_interrupt)


@jobs_group.command(epilog="Example: geopipe jobs stop latest --timeout 60")
@run_argument
@timeout_option(30, "Seconds to wait for the run before Ray kills its job.")
@address_option
@json_option
def stop(run: str, timeout: float, address: str | None, as_json: bool) -> None:
    """Stop a run; kill it if it does not stop in time.

    RUN is a run's id, the start of one, its name, or latest. Its finished tiles are kept for `geopipe jobs resume`.
    """
    from geopipe.jobs import head, jobs

    with _lookup(run, settle=False) as (row, look):
        _print(jobs.stop(row, look, lambda: head.cluster(address), timeout), as_json)


def _as_json(run: RunRow) -> dict[str, object]:
    return asdict(run) | {"stale": run.stale, "share": run.share, "seconds": run.seconds}


def _print(run: RunRow, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(run))
    else:
        _show([run])


def _show(runs: Sequence[RunRow]) -> None:
    from geopipe.cli import show_runs
    from geopipe.cli.screen import console

    show_runs.runs(console(), runs)
