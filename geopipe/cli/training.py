"""Commands from a table to a model: `geopipe folds` and `geopipe applicability`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopipe.cli.analyze import engine_options, progress
from geopipe.cli.options import json_option, names_of, print_json


@click.command(epilog="Example: geopipe folds output --method knndm --points plots.parquet -o plots_folds.parquet")
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--method",
    type=click.Choice(["block", "cluster", "knndm"]),
    default="block",
    show_default=True,
    help="Squares of cells, k-means, or nearest neighbour distance matching.",
)
@click.option("--k", type=int, help="Folds; 5, and 2 for a checkerboard.")
@click.option(
    "--size", type=float, help="Edge of a block in the unit of the grid's CRS; else the range of autocorrelation."
)
@click.option(
    "--assignment",
    type=click.Choice(["random", "systematic", "checkerboard"]),
    default="random",
    show_default=True,
    help="Of blocks to folds.",
)
@click.option("--columns", default="", metavar="NAME,...", help="Variables in whose space clusters are; else places.")
@click.option("--classes", metavar="NAME", help="Column whose classes are balanced and counted.")
@click.option("--points", metavar="FILE", help="Training points (x, y or row, col) that get folds instead of all rows.")
@click.option("-o", "to", metavar="FILE", type=click.Path(path_type=Path), help="The points with their fold.")
@click.option("--clustering", type=click.Choice(["hierarchical", "kmeans"]), help="Of knndm; else by their number.")
@click.option("--largest", type=float, default=0.5, show_default=True, help="Share of a fold of knndm at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all random choices.")
@engine_options
@json_option
def folds(
    output: str,
    columns: str,
    to: Path | None,
    seed: int,
    engine: Any,
    address: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make folds for an honest cross-validation.

    OUTPUT is the output folder of a run. The fold of each row is in files beside the table, OUTPUT/analysis/folds, with
    sizes, the balance of classes, and distances between folds beside those to the cells of the table. With --points
    these points get folds, as an integer column `fold` from 1 on.
    """
    from geopipe import api
    from geopipe.cli import show_analysis
    from geopipe.cli.screen import console, say
    from geopipe.errors import SettingsError
    from geopipe.training.folds import Folds
    from geopipe.training.work import run, subject, write_points

    method = Folds(**options)
    if to is not None and method.points is None:
        raise SettingsError("-o is for points; folds of all rows stand beside the table", "give --points, or no -o")
    about = subject(api.open(output), method, names_of(columns), seed)
    with progress(as_json) as watch:
        analysis = run(method, about, engine, address, watch)
    file = None if to is None else write_points(method, analysis, to)
    if as_json:
        print_json(show_analysis.analysis_json(analysis))
        return
    show_analysis.analyses(console(), [analysis])
    if file is not None:
        say(console(), f"  points with their fold: {file}")


@click.command(epilog="Example: geopipe applicability output --train plots.parquet --folds fold --weights ndvi=3,dem=1")
@click.argument("output", metavar="OUTPUT")
@click.option("--train", required=True, metavar="FILE", help="Training data of the model, as Parquet or CSV.")
@click.option("--weights", default="", metavar="FILE|NAME=W,...", help="Importance of variables, or a JSON file of it.")
@click.option(
    "--columns",
    default="",
    metavar="NAME,...",
    help="Variables of the model; else those of --weights, or all that both have.",
)
@click.option("--folds", metavar="NAME", help="Column of the training data with their fold; else leave-one-out.")
@engine_options
@json_option
def applicability(
    output: str,
    train: str,
    weights: str,
    columns: str,
    folds: str | None,
    engine: Any,
    address: str | None,
    as_json: bool,
) -> None:
    """Find where a model holds.

    OUTPUT is the output folder of a run. Each cell gets its dissimilarity from the training data (di), and whether it
    is inside the area of applicability (Meyer and Pebesma 2021), in files beside the table: OUTPUT/analysis/
    applicability. A cell that lacks a variable has neither.
    """
    from geopipe import api
    from geopipe.cli import show_analysis
    from geopipe.cli.screen import console
    from geopipe.training.applicability import Applicability
    from geopipe.training.work import run, subject

    method = Applicability(train, _weights(weights), folds)
    about = subject(api.open(output), method, names_of(columns), 0)
    with progress(as_json) as watch:
        analysis = run(method, about, engine, address, watch)
    if as_json:
        print_json(show_analysis.analysis_json(analysis))
    else:
        show_analysis.analyses(console(), [analysis])


def _weights(text: str) -> dict[str, float]:
    """Weights by variable, from NAME=W,... or from a JSON file."""
    import json

    from geopipe.errors import SettingsError

    hint = 'give ndvi=3,dem=1, or a file such as {"ndvi": 3, "dem": 1}'
    try:
        if text and "=" not in text:
            return {str(name): float(weight) for name, weight in json.loads(Path(text).read_text()).items()}
        pairs = (part.rpartition("=") for part in names_of(text))
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except FileNotFoundError:
        raise SettingsError(f"--weights {text} does not exist", hint) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"--weights {text} are no weights: {error}", hint) from None
