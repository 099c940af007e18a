"""`geopipe doctor`: what geopipe finds on this machine."""

from __future__ import annotations

from dataclasses import asdict

import click

from geopipe.cli.options import json_option, print_json


@click.command(epilog="Example: geopipe doctor --warm")
@click.option("--warm", is_flag=True, help="Compile all kernels first, so that no run has to.")
@json_option
def doctor(warm: bool, as_json: bool) -> None:
    """Show what geopipe finds on this machine, with hints.

    Versions of the libraries, processors, memory, the Ray cluster that a run would join, the kernels' machine code,
    PROJ's grids, and the Postgres for the history of runs. It starts nothing.
    """
    from geopipe.analysis import warm as analyses
    from geopipe.cli.screen import console, facts, say
    from geopipe.load import warm as kernels
    from geopipe.run.diagnose import diagnose
    from geopipe.text import clean

    if warm:
        seconds = kernels.warm() + analyses.warm()
        say(console(stderr=True), f"the kernels are compiled ({seconds:.0f} s)")
    known = diagnose()
    if as_json:
        print_json([asdict(fact) for fact in known])
        return
    facts(console(), {f.name: clean(f.value) + (f"\nhint: {clean(f.hint)}" if f.hint else "") for f in known})
