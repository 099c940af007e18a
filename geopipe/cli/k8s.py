"""`geopipe k8s`: a run on Kubernetes with KubeRay."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geopipe.cli.options import file_argument, load_settings, print_error, set_option
from geopipe.errors import GeopipeError, MachineError, Paused, PlanError, noted

if TYPE_CHECKING:
    from geopipe.kuberay.render import KubernetesRun
    from geopipe.kuberay.sizing import Pods
    from geopipe.plan.plan import Plan
    from geopipe.settings.model import Settings

MOST_PODS = {"dev": 1, "production": 16, "kueue": 16}
CPUS = {"dev": 2, "production": 7, "kueue": 7}
"""CPUs of a worker pod by overlay: a machine of 8 keeps one for the system."""


UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "Mi": 1 << 20, "Gi": 1 << 30}
TIMES, SIZES = ("s", "min", "h", "d"), ("Mi", "Gi")


def _amount(units: tuple[str, ...], value: str | None) -> float | None:
    """The seconds or bytes of a number with a unit."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]+)", value)
    if match is None or match[2] not in units or float(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is no positive number with a unit of {', '.join(units)}")
    return float(match[1]) * UNITS[match[2]]


SKIPPED = 4
"""Exit code of a run that is done and has left out layers."""

IN_VAIN = (PlanError.exit_code, Paused.exit_code)
"""Exit codes of runs that a new cluster cannot help: refused before it started, or paused by a person."""


@click.group("k8s")
def k8s_group() -> None:
    """Run on Kubernetes, with KubeRay."""


@k8s_group.command(
    epilog="Example: geopipe k8s render mine.toml --data . --image example.org/geopipe:0.1.0 | kubectl apply -f -"
)
@file_argument
@set_option
@click.option("--overlay", type=click.Choice(list(CPUS)), default="dev", show_default=True, help="Size and services.")
@click.option("--image", required=True, metavar="REF", help="Image of geopipe, with a tag or digest.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder here that is /data in the pods.")
@click.option("--name", default="", help="Name of the RayJob (default: run.name and the hash of the plan).")
@click.option("--namespace", default="geopipe", show_default=True, help="Namespace of all objects.")
@click.option("--claim", default="", metavar="NAME", help="PersistentVolumeClaim with the data, which exists.")
@click.option(
    "--within",
    callback=lambda _, __, value: _amount(TIMES, value),
    default="1h",
    show_default=True,
    help="Wished time of the run: 90min, 2h.",
)
@click.option("--workers", type=click.IntRange(1), help="Worker pods at most (default: 1 for dev, else 16).")
@click.option("--cpus", type=click.IntRange(1), help="CPUs of a worker pod at most (default: 2 for dev, else 7).")
@click.option(
    "--memory",
    callback=lambda _, __, value: _amount(SIZES, value),
    help="Memory of a worker pod: 28Gi. With --workers no plan is made.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write (default: stdout).")
@click.option("--summary", is_flag=True, help="Say on stderr what was chosen and why.")
def render(file: Path, flags: tuple[str, ...], output: Path | None, summary: bool, **options: Any) -> None:
    """Write the manifests of one run for `kubectl apply`.

    Number and size of the worker pods and the deadline are from the plan of SETTINGS, a TOML file. The plan reads the
    headers of the rasters on this machine, below the folder of --data. Where they cannot be read, give --workers and
    --memory.

    The same plan has the same name, so that applying it again starts no other run.
    """
    from geopipe.durable import write_error
    from geopipe.kuberay.render import render as manifests

    job, lines = _job(load_settings(file, flags), **options)
    text = manifests(job)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise write_error(error, output) from error
    for line in lines if summary else ():
        click.echo(line, err=True)


def _job(settings: Settings, overlay: str, **options: Any) -> tuple[KubernetesRun, list[str]]:
    """The run as a job, and what was chosen and why."""
    from geopipe.kuberay import contents, sizing
    from geopipe.kuberay.render import GROWING, KubernetesRun, digest_of, job_name

    most, cpus = options["workers"] or MOST_PODS[overlay], options["cpus"] or CPUS[overlay]
    contents.settings_for_pods(settings, options["data"], None)  # what cannot be is refused before headers are read
    plan = None
    if options["memory"] and options["workers"]:
        pods = sizing.pods_by_hand(most, cpus, int(options["memory"]))
    elif options["memory"]:
        raise click.UsageError("--memory needs --workers: together they replace the plan")
    else:
        plan = _plan(settings)
        pods = sizing.size_pods(plan, sizing.Limits(options["within"], most, cpus))
    text = contents.settings_for_pods(settings, options["data"], pods.workers if overlay in GROWING else None)
    job = KubernetesRun(
        name=options["name"] or job_name(settings.run.name, plan.hash if plan else digest_of(text)),
        settings=text,
        overlay=overlay,
        image=options["image"],
        pods=pods,
        deadline=sizing.deadline(plan, pods) if plan else 0,
        namespace=options["namespace"],
        claim=options["claim"],
    )
    return job, _summary(job, plan, options["within"])


def _plan(settings: Settings) -> Plan:
    from geopipe.errors import PlanError, SourceError
    from geopipe.kuberay.sizing import ROOMY
    from geopipe.run.draft import draft

    try:
        plan = draft(settings, ROOMY, engine="ray")
    except SourceError as error:
        hint = "the plan reads headers here: mount the data at the same path, name its folder by --data,"
        raise SourceError(error.message, f"{hint} or give --workers and --memory (no plan is made)") from error
    if plan.engine != "ray":
        raise PlanError(f"the run needs one process: {plan.engine_why}", "take the old way out of [resampling]")
    return plan


def _summary(job: KubernetesRun, plan: Plan | None, within: float) -> list[str]:
    from geopipe.kuberay import sizing
    from geopipe.plan.work import duration
    from geopipe.text import count

    lines = [f"{job.name}: {_pods(job.pods)}"]
    if plan is None:
        return [*lines, "by --workers and --memory, without a plan; the deadline is that of the overlay"]
    work = duration(sizing.processor_seconds(plan))
    return [
        *lines,
        f"CPUs: {work} of one processor, wished within {duration(within)}, in {count(plan.estimate.tasks, 'task')}",
        f"memory: {plan.strategy}, the largest task needs {plan.estimate.task_bytes / (1 << 20):,.0f} MiB",
        f"time: about {duration(sizing.predicted_seconds(plan, job.pods))}, ended after {duration(job.deadline)}",
    ]


def _pods(pods: Pods) -> str:
    from geopipe.text import count, size

    return (
        f"{count(pods.count, 'worker pod')} with {count(pods.cpus, 'CPU')} and {size(pods.limit)} of memory each "
        f"({size(pods.object_store)} object store), {size(pods.disk)} of disk"
    )


@k8s_group.command(epilog="Example: geopipe k8s entrypoint /etc/geopipe/settings.toml")
@file_argument
@click.pass_context
def entrypoint(context: click.Context, file: Path) -> int:
    """Run SETTINGS as the entrypoint of a RayJob.

    Does what `geopipe run --resume` does. Whatever the exit code, KubeRay starts a job that has failed again, on a new
    cluster. So this exits with 0 if the run is done without some layers (4). If the run is refused (2) or paused (75),
    it stops its job: KubeRay does not start a stopped one again.
    """
    from geopipe.cli.run import run
    from geopipe.engine import address
    from geopipe.jobs import head
    from geopipe.jobs.submission import RayJob

    try:
        code = int(context.invoke(run, file=file, resume=True))
    except GeopipeError as error:
        name = address.job_metadata().get("job_submission_id")
        if name is None or error.exit_code not in IN_VAIN:
            raise
        print_error(f"error: {error}")
        with suppress(MachineError), noted(lambda: "the job is stopped, not failed: KubeRay does not start it again"):
            RayJob(head.cluster(None), name).stop()  # its SIGTERM ends this process
        return error.exit_code
    if code == SKIPPED:
        click.echo("layers were left out (exit code 4); the job exits with 0: a retry would leave them out, too")
        return 0
    return code
