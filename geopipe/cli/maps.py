"""Commands that bring a table back to a map: `geopipe predict` and `geopipe rasterize`."""

from __future__ import annotations

from typing import Any

import click

from geopipe.cli.analyze import engine_options, progress
from geopipe.cli.options import json_option, print_error, print_json


@click.command(epilog="Example: geopipe rasterize output --column elevation -o elevation.tif")
@click.argument("table", metavar="TABLE")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="A column; repeat for several bands.")
@click.option("--like", metavar="OUTPUT", help="Finished output on the grid of the rows; default: TABLE itself.")
@click.option("-o", "--to", required=True, metavar="FILE", help="The GeoTIFF, or a folder.")
@click.option(
    "--part-size",
    type=click.IntRange(min=1),
    default=32768,
    show_default=True,
    metavar="CELLS",
    help="Above this edge squared, a folder of GeoTIFFs and a VRT is written.",
)
@click.option("--overwrite", is_flag=True, help="Replace a map that is there.")
@json_option
def rasterize(
    table: str,
    columns: tuple[str, ...],
    like: str | None,
    to: str,
    part_size: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write columns of a table as a map.

    TABLE is a finished output, or a file, a folder or a pattern ('*.parquet') of Parquet with row and col, or x and y,
    in any order. The map is a Cloud Optimized GeoTIFF with a band for each column: names, units, no-data, palettes and
    overviews are those that QGIS expects.
    """
    from geopipe import table_api
    from geopipe.analysis.drive import Step
    from geopipe.cli import show_maps
    from geopipe.cli.screen import console

    with progress(as_json) as shown:

        def watch(title: str, done: int, total: int) -> None:
            shown(Step("rasterize", title, 1, done, total))

        options = {"part_size": part_size, "watch": watch}
        written = table_api.rasterize(table, columns, like=like, to=to, overwrite=overwrite, **options)
    if as_json:
        print_json(show_maps.json_of(written))
    else:
        show_maps.raster_map(console(), written)


@click.command(epilog="Example: geopipe predict output --model model.joblib -o predictions")
@click.argument("output", metavar="OUTPUT")
@click.option("--model", required=True, metavar="MODEL", help="A joblib file, or a function: module:function.")
@click.option("--columns", default="", metavar="NAME,...", help="In the model's order; default: those of its fit.")
@click.option("-o", "--to", required=True, metavar="FOLDER", help="Folder of the predictions.")
@click.option("--proba", is_flag=True, help="Probabilities of classes, in place of the likeliest class.")
@click.option("--overwrite", is_flag=True, help="Replace predictions that are there.")
@engine_options
@json_option
def predict(output: str, model: str, columns: str, to: str, as_json: bool, **options: Any) -> None:
    """Map a model over a finished table.

    OUTPUT is the output of a finished run. MODEL is an estimator with `predict`, as scikit-learn has them, or a
    function of a dict of arrays. The predictions are Parquet with row and col, which `geopipe rasterize` makes a map
    of. A row with a null in one of the columns has none. A joblib file is code that runs with your rights: use only
    files that you trust.
    """
    from geopipe import table_api
    from geopipe.cli import show_maps
    from geopipe.cli.screen import console
    from geopipe.training.models import model_of

    names = [name.strip() for name in columns.split(",") if name.strip()]
    chosen = model_of(model)
    if chosen.is_file:
        print_error(f"note: {model} is loaded; it is code that runs with your rights (sha256 {chosen.sha256[:16]}...)")
    with progress(as_json) as watch:
        written = table_api.predict(output, chosen, names, to=to, watch=watch, **options)
    if as_json:
        print_json(show_maps.json_of(written))
    else:
        show_maps.predictions(console(), written)
