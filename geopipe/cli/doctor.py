"""`geopipe doctor`: what a run would meet on this machine, or on every node of a cluster."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geopipe.cli.options import json_option, load_settings, print_json, set_option

if TYPE_CHECKING:
    from geopipe.doctor.diagnose import Scope
    from geopipe.doctor.findings import MachineFinding

STYLES = {"problem": "bold red", "note": "yellow", "ok": "green"}


@click.command(epilog="Example: geopipe doctor mine.toml --address 10.0.0.1:6379")
@click.argument("file", metavar="[SETTINGS]", type=click.Path(path_type=Path), required=False)
@set_option
@click.option("--output", type=click.Path(path_type=Path), help="Folder to check (default: that of SETTINGS).")
@click.option("--address", help="Ask every node of this Ray cluster, too (HOST:PORT).")
@click.option("--warm", is_flag=True, help="Compile all kernels first, so that no run has to.")
@json_option
def doctor(
    file: Path | None, flags: tuple[str, ...], output: Path | None, address: str | None, warm: bool, as_json: bool
) -> None:
    """Check what a run needs on this machine, with hints. It starts nothing.

    Versions, processors, memory, disks, kernels, the output folder, Postgres, ports, the token of a cluster, and
    environment variables. Exit code 3 if there is a problem; notes do not count. SETTINGS is a TOML file whose output
    folder is checked; without it the current folder is.
    """
    from geopipe.cli.screen import console, say
    from geopipe.doctor import system
    from geopipe.doctor.diagnose import diagnose, diagnose_cluster, diagnose_joined
    from geopipe.errors import MachineError

    if address and "//" in address:
        raise click.UsageError(
            f"{address} is for jobs; ask the nodes from inside the cluster: "
            f"ray job submit --address {address} -- geopipe doctor --address auto"
        )
    scope = _scope(file, flags, output)
    if warm:
        say(console(stderr=True), f"the kernels are compiled ({system.warm():.0f} s)")
    findings = [*diagnose(scope), *(diagnose_cluster(address, scope) if address else [diagnose_joined()])]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.state == "problem" for finding in findings):
        sys.exit(MachineError.exit_code)


def _scope(file: Path | None, flags: tuple[str, ...], output: Path | None) -> Scope:
    """What the settings and the options name."""
    from geopipe.doctor.diagnose import Scope

    if file is None:
        return Scope(output or Path.cwd(), output is not None)
    settings = load_settings(file, flags)
    monitoring = settings.monitoring
    return Scope(output or settings.run.folder, True, monitoring.enable_database_logging, monitoring.prometheus_port)


def _show(findings: list[MachineFinding]) -> None:
    """Write the findings, problems first. Of a node only problems and notes are shown."""
    from rich.text import Text

    from geopipe.cli.screen import console, say, table
    from geopipe.text import count

    out, rows = console(), list[Sequence[str | Text]]()
    shown = [finding for finding in findings if not (finding.node and finding.state == "ok")]
    for state in STYLES:
        for finding in (finding for finding in shown if finding.state == state):
            value = f"{finding.node}: {finding.value}" if finding.node else finding.value
            rows.append([Text(state, STYLES[state]), finding.name, value])
            if finding.hint:
                rows.append(["", "", f"hint: {finding.hint}"])
    table(out, ("state", "finding", "value"), rows, fold=True)
    counts = Counter(finding.state for finding in findings)
    parts = [count(counts[state], state) for state in ("problem", "note") if counts[state]]
    say(out, "\n" + ", ".join([*parts, f"{counts['ok']:,} ok"]))
