"""The command line. Every command parses, calls and prints; it imports Ray or rasterio only when it runs."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import NoReturn

import click

from geopipe import __version__
from geopipe.cli import signals
from geopipe.cli.analyze import analyze
from geopipe.cli.cluster import cluster_group
from geopipe.cli.config import config
from geopipe.cli.db import db
from geopipe.cli.doctor import doctor
from geopipe.cli.inputs import init, inspect
from geopipe.cli.jobs import jobs_group
from geopipe.cli.k8s import k8s_group
from geopipe.cli.maps import predict, rasterize
from geopipe.cli.monitor import monitor
from geopipe.cli.options import HELP, print_error
from geopipe.cli.outputs import open_table, status, validate
from geopipe.cli.report import report
from geopipe.cli.run import demo, plan, run
from geopipe.cli.training import applicability, folds
from geopipe.errors import GeopipeError, Terminated, find_signal


def main() -> NoReturn:
    """Run the command line and end the process with its code.

    The command is done then: taking down the libraries that it loaded would take half a second.
    """
    gc.set_threshold(50_000)  # imports make many objects that stay: looking at them all again is a tenth of the start
    code = execute()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python reports it
    guard = sys.modules.get("geopipe.engine.guard")  # importing it would load Ray
    if guard is not None and guard.abandoned.is_set():
        guard.say_farewell()  # Ray's part of a normal exit would wait for its dead head, and replace the exit code
    else:
        atexit._run_exitfuncs()
    os._exit(code)


def execute() -> int:
    """Run the command line; returns 0 done, 1 failed, 2 usage or settings, 3 environment, 4 skipped."""

    def terminate(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, terminate)
    signals.keep()
    try:
        code = cli.main(standalone_mode=False)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # the command is done; its code must not change
            signal.signal(number, signal.SIG_IGN)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except GeopipeError as error:
        print_error(f"error: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort, Terminated) as error:
        code = _report_signal(error)
    except BrokenPipeError:
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code if isinstance(code, int) else 0


def _report_signal(error: BaseException) -> int:
    """Print which signal ended the command and what it left behind; return the exit code."""
    stop = find_signal(error) or error
    how, code = ("terminated", stop.exit_code) if isinstance(stop, Terminated) else ("interrupted", 130)
    print_error("; ".join((how, *getattr(stop, "__notes__", ()))))
    return code


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="geopipe")
def cli() -> None:
    """Many rasters in, one table out.

    geopipe puts rasters that agree in nothing on one grid and merges them into one table: a row per cell, a column per
    variable, as Parquet and CSV. Start with `geopipe demo`.
    """


for command in (
    demo, init, inspect, plan, run, status, validate, open_table, analyze, folds, applicability, predict, rasterize,
    report, monitor, jobs_group, cluster_group, k8s_group, db, config, doctor,
):  # fmt: skip
    cli.add_command(command)
