"""Coordinate tables as layers: points and cells from Parquet, CSV and Postgres."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pyproj
import pytest
from helpers import GENEROUS, VERSIONS, call, north_up, plan_of, table_of, write_raster
from hypothesis import given
from hypothesis import strategies as st
from postgres_server import PASSWORD, Server

from geopipe.engine import local
from geopipe.errors import MachineError, SettingsError, SourceError
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Kind, Layer
from geopipe.layers.table_plan import STATISTICS
from geopipe.layers.tables import Part, choose_columns
from geopipe.load import points, postgres, tables
from geopipe.merge.blocks import pack, unpack
from geopipe.merge.points import SparseRow, gather, statistic
from geopipe.merge.tile import merge_tile
from geopipe.plan.options import Options
from geopipe.plan.plan import Inputs, Plan, make_plan
from geopipe.run import draft
from geopipe.settings import load

UTM = "EPSG:32612"
GRID = Grid(UTM, 500_000, 4_000_000, 10, 10, 4, 3)
CENTRE_X, CENTRE_Y = GRID.xs(0, 4), GRID.ys(0, 3)


def write(path: Path, **columns: Any) -> Path:
    """A Parquet file or a CSV, by the name."""
    table = pa.table(columns)
    csv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path)
    return path


def layer(path: Path | str, **overrides: Any) -> Layer:
    return Layer(**{"name": "p", "paths": (str(path),), "crs": UTM} | overrides)


def plan_for(layers: Sequence[Layer], grid: Grid = GRID, **options: Any) -> Plan:
    result = [(y, points.measure_offsets(y, tables.headers(y), grid)) for y in layers]
    return make_plan(Inputs("test", grid, result, VERSIONS), Options(**options), GENEROUS)


def cells_of(plan: Plan, *columns: str) -> dict[tuple[int, int], Any]:
    """The values of each row of the table by cell."""
    rows = table_of(plan).to_pylist()
    return {(r["row"], r["col"]): r[columns[0]] if len(columns) == 1 else tuple(r[c] for c in columns) for r in rows}


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Five points in two cells, one outside, one without a value."""
    return write(
        tmp_path / "few.parquet",
        x=[500_001.0, 500_000, 500_009, 500_015, 500_019, 499_999],
        y=[3_999_999.0, 4_000_000, 3_999_991, 3_999_995, 3_999_995, 3_999_995],
        value=pa.array([3, 3, 9, 7, None, 1], pa.int16()),
        w=[1.0, 0.5, 0.5, 2.0, 1.0, 1.0],
    )


@pytest.mark.parametrize(
    ("aggregate", "dtype", "first", "second"),
    [
        ("mean", pa.float64(), 5.0, 7.0),
        ("sum", pa.int64(), 15, 7),
        ("min", pa.int16(), 3, 7),
        ("max", pa.int16(), 9, 7),
        ("count", pa.int64(), 3, 1),
        ("first", pa.int16(), 3, 7),
        ("mode", pa.int16(), 3, 7),
        ("auto", pa.float64(), 5.0, 7.0),
    ],
)
def test_statistics_by_hand(few: Path, aggregate: str, dtype: pa.DataType, first: Any, second: Any) -> None:
    plan = plan_for([layer(few, values=("value",), aggregate=aggregate)])
    assert table_of(plan).schema.field("p").type == dtype
    assert cells_of(plan, "p") == {(0, 0): first, (0, 1): second}


def test_a_weight_weighs_mean_and_sum_and_no_other(few: Path) -> None:
    plan = plan_for([layer(few, values=("value",), aggregate=("mean", "sum", "count"), weight="w")])
    assert [v.name for v in plan.spec.variables] == ["p_mean", "p_sum", "p_count"]
    assert cells_of(plan, "p_mean", "p_sum", "p_count") == {(0, 0): (4.5, 9.0, 3), (0, 1): (7.0, 14.0, 1)}
    with pytest.raises(SettingsError, match=r"weight = 'w' counts in mean and sum only"):
        plan_for([layer(few, values=("value",), aggregate="max", weight="w")])


def test_weights_that_are_missing_zero_or_negative(tmp_path: Path) -> None:
    columns = {"x": [500_001.0, 500_002, 500_011, 500_021], "y": [3_999_999.0] * 4, "value": [1.0, 2, 3, 4]}
    file = write(tmp_path / "a.parquet", **columns, w=[1.0, None, 0.0, 2.0])
    assert cells_of(plan_for([layer(file, weight="w")]), "p") == {(0, 0): 1.0, (0, 2): 4.0}
    file = write(tmp_path / "b.parquet", **columns, w=[1.0, -1.0, 0.0, -2.0])
    with pytest.raises(SourceError, match=r"2 of 4 rows of .* have a weight below 0 in w; the first is row 1"):
        table_of(plan_for([layer(file, weight="w")]))


def test_points_are_counted_without_values(few: Path) -> None:
    assert cells_of(plan_for([layer(few, aggregate="count")]), "p") == {(0, 0): 3, (0, 1): 2}


def test_several_values_make_a_column_each(few: Path) -> None:
    plan = plan_for([layer(few, values=("value", "w"), aggregate="max", unit="m")])
    assert cells_of(plan, "p_value", "p_w") == {(0, 0): (9, 1.0), (0, 1): (7, 2.0)}
    about = table_of(plan).schema.field("p_w").metadata
    assert about == {b"layer": b"p", b"band": b"2", b"unit": b"m", b"description": b"w"}


def test_an_edge_belongs_to_the_cell_right_of_it_and_below(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        x=[500_010.0, 500_040.0, 500_000.0],
        y=[3_999_990.0, 3_999_995.0, 3_999_970.0],
        value=[1, 2, 3],
    )
    assert cells_of(plan_for([layer(file)]), "p") == {(1, 1): 1.0}


def test_points_outside_are_counted_in_the_log(few: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "geopipe"):
        table_of(plan_for([layer(few, values=("value",))]))
    assert f"layer p: 1 of 6 rows of {few} lie outside the grid" in caplog.text


@pytest.mark.parametrize("cells", [None, "index", "centres"])
def test_rows_without_finite_coordinates_are_an_error_with_their_number(tmp_path: Path, cells: str | None) -> None:
    x = [0.0 if cells == "index" else CENTRE_X[0], None, float("nan"), float("inf"), -float("inf")]
    file = write(tmp_path / "a.parquet", x=x, y=[0.0 if cells == "index" else CENTRE_Y[0]] * 5, value=[1, 2, 3, 4, 5])
    keys = {"cells": cells, "x": "x", "y": "y"}
    with pytest.raises(SourceError, match=r"4 of 5 rows of .*a.parquet have no finite x or y; the first is") as caught:
        table_of(plan_for([layer(file, **keys)]))
    assert "row 1 (from 0)" in str(caught.value)
    assert caught.value.layer == "p"


def test_nan_null_and_nodata_do_not_count(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet", x=[500_001.0] * 4, y=[3_999_999.0] * 4, value=[None, float("nan"), -9999.0, 5.0]
    )
    assert cells_of(plan_for([layer(file, nodata=-9999, aggregate=("mean", "count"))]), "p_mean", "p_count") == {
        (0, 0): (5.0, 1)
    }


def test_whole_numbers_keep_every_bit(tmp_path: Path) -> None:
    big = 2**63 - 1
    at = {"x": [500_001.0, 500_002, 500_011], "y": [3_999_999.0] * 3}
    file = write(tmp_path / "a.parquet", **at, value=[big, big - 1, big - 2])
    plan = plan_for([layer(file, aggregate=("min", "max", "first", "mode"))])
    assert cells_of(plan, "p_min", "p_max", "p_first", "p_mode")[0, 0] == (big - 1, big, big, big - 1)
    with pytest.raises(SourceError, match=r"layer p, column p, tile 0: a sum of whole numbers is 18,446,744"):
        table_of(plan_for([layer(file, aggregate="sum")]))
    file = write(tmp_path / "b.parquet", **at, value=[big, -5, big])
    assert cells_of(plan_for([layer(file, aggregate="sum")]), "p") == {(0, 0): big - 5, (0, 1): big}


def test_kinds_choose_the_statistic(few: Path) -> None:
    for kind, expected in ((Kind.CATEGORICAL, "mode"), (Kind.COUNT, "sum")):
        plan = plan_for([layer(few, values=("value",), kind=kind)])
        assert [v.requested_method for v in plan.spec.variables] == [expected]
    for kind, aggregate in ((Kind.CATEGORICAL, "mean"), (Kind.CIRCULAR, "auto")):
        with pytest.raises(SettingsError, match=r"makes no sense for kind"):
            plan_for([layer(few, values=("value",), kind=kind, aggregate=aggregate)])
    with pytest.raises(SettingsError, match=r"aggregate = 'median' is unknown"):
        plan_for([layer(few, values=("value",), aggregate="median")])


def test_types_that_are_no_numbers_are_refused_and_others_read(tmp_path: Path) -> None:
    at = {"x": [500_001.0], "y": [3_999_999.0]}
    for value in (pa.array(["a"]), pa.array([0], pa.timestamp("s"))):
        file = write(tmp_path / "a.parquet", **at, value=value)
        with pytest.raises(SourceError, match=r"has no numbers in its column 'value', but (string|timestamp)"):
            plan_for([layer(file)])
    for value, dtype in (
        (pa.array([True]), pa.uint8()),
        (pa.array([1.5], pa.float16()), pa.float32()),
        (pa.array([1], pa.decimal128(9, 2)), pa.float64()),
        (pa.array([1], pa.uint64()).dictionary_encode(), pa.uint64()),
    ):
        file = write(tmp_path / "a.parquet", **at, value=value)
        plan = plan_for([layer(file, aggregate="max")])
        assert table_of(plan).schema.field("p").type == dtype
        assert float(cells_of(plan, "p")[0, 0]) == float(value.to_pylist()[0])


def test_columns_are_found_where_there_is_no_doubt(tmp_path: Path) -> None:
    def names(**columns: Any) -> tuple[str, ...]:
        header = tables.header(str(write(tmp_path / "a.parquet", **columns)))
        return choose_columns(layer("a.parquet"), header).names

    one = [1.0]
    assert names(x=one, y=one, lon=one, lat=one, value=one, other=one) == ("x", "y", "value")
    assert names(lon=one, lat=one, depth=one) == ("lon", "lat", "depth")
    assert names(row_idx=[1], col_idx=[1], x_coord=one, y_coord=one, value=one) == ("x_coord", "y_coord", "value")
    with pytest.raises(SourceError, match=r"several could be x and y"):
        names(lon=one, lat=one, x_coord=one, y_coord=one, value=one)
    with pytest.raises(SourceError, match=r"none are x and y; it has a, value"):
        names(a=one, value=one)
    with pytest.raises(SourceError, match=r"nothing says which columns of .* are the values; it has x, y, a, b"):
        names(x=one, y=one, a=one, b=one)
    with pytest.raises(SettingsError, match=r"one of x and y is missing"):
        plan_for([layer(write(tmp_path / "b.parquet", x=one, y=one, a=one), x="x")])
    with pytest.raises(SourceError, match=r"has no column 'u'"):
        plan_for([layer(tmp_path / "b.parquet", x="u", y="y", values=("a",))])


def test_the_crs_comes_from_the_settings_or_from_geoparquet(tmp_path: Path) -> None:
    lon, lat = pyproj.Transformer.from_crs(UTM, "OGC:CRS84", always_xy=True).transform(500_015, 3_999_985)
    file = write(tmp_path / "a.parquet", lon=[lon], lat=[lat], value=[1])
    with pytest.raises(SourceError, match=r"does not say its CRS"):
        plan_for([layer(file, crs=None)])
    assert cells_of(plan_for([layer(file, crs="EPSG:4326")]), "p") == {(1, 1): 1.0}
    for crs in ({}, {"crs": json.loads(pyproj.CRS("EPSG:4326").to_json())}):
        geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"} | crs}}
        table = pq.read_table(file).replace_schema_metadata({"geo": json.dumps(geo)})
        pq.write_table(table, tmp_path / "geo.parquet")
        assert cells_of(plan_for([layer(tmp_path / "geo.parquet", crs=None)]), "p") == {(1, 1): 1.0}


# ---------------------------------------------------------------- cells of an older pipeline


def cell_table(path: Path, dx: float = 0.0, dy: float = 0.0, size: float = 10.0, half: float = 0.5) -> Path:
    """A table of 4 x 3 cells as an older pipeline wrote it, moved by dx and dy; the value is 10 x row + column."""
    row, col = np.divmod(np.arange(12), 4)
    return write(
        path,
        row_idx=row,
        col_idx=col,
        x_coord=500_000 + (col + half) * size + dx,
        y_coord=4_000_000 - (row + half) * size + dy,
        value=(10 * row + col).astype(np.int32),
    )


ALL = {(row, col): 10 * row + col for row in range(3) for col in range(4)}


@pytest.mark.parametrize(("cells", "half"), [("centres", 0.5), ("corners", 0.0)])
def test_cells_within_the_tolerance_are_the_grids(tmp_path: Path, cells: str, half: float) -> None:
    file = cell_table(tmp_path / "a.parquet", dx=-0.09, dy=0.09, half=half)
    plan = plan_for([layer(file, cells=cells, aggregate="first")])
    assert cells_of(plan, "p") == ALL
    assert "off the grid's by at most 0.009 of a cell" in plan.layers[0].table.why


def test_cells_that_are_off_are_refused_with_the_numbers(tmp_path: Path) -> None:
    file = cell_table(tmp_path / "a.parquet", dx=3)
    with pytest.raises(
        SourceError, match=r"centres are off the grid's by at most 0.3 of a cell, more than .* = 0.01: row 0"
    ):
        plan_for([layer(file, cells="centres")])
    plan_for([layer(file, cells="centres")], alignment_tolerance=0.35)
    with pytest.raises(SourceError, match=r"corners are off the grid's by at most 0.5"):
        plan_for([layer(cell_table(tmp_path / "b.parquet"), cells="corners")])


@pytest.mark.parametrize(("cells", "half"), [("centres", 0.5), ("corners", 0.0)])
def test_cells_that_are_off_are_aggregated_on_request(tmp_path: Path, cells: str, half: float) -> None:
    file = cell_table(tmp_path / "a.parquet", size=5, half=half)
    plan = plan_for([layer(file, cells=cells, on_misaligned="aggregate", aggregate=("mean", "count"))])
    # cells of 5 m: four to a cell of the grid, two columns of it and one row and a half
    assert cells_of(plan, "p_mean", "p_count") == {
        (0, 0): (5.5, 4), (0, 1): (7.5, 4), (1, 0): (20.5, 2), (1, 1): (22.5, 2)
    }  # fmt: skip


def test_corners_without_a_size_are_refused(tmp_path: Path) -> None:
    for x in ([500_003.0] * 3, [500_003.0, 500_003.001, 500_012.0034]):
        file = write(tmp_path / "a.parquet", x=x, y=[3_999_990.0, 3_999_980, 3_999_970], value=[1, 2, 3])
        with pytest.raises(SourceError, match=r"corners of .* do not tell how large its cells are"):
            plan_for([layer(file, cells="corners", on_misaligned="aggregate")])


def test_cells_by_index_need_no_crs(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", row_idx=[0, 2, 3], col_idx=[1, 3, 0], value=[1, 2, 3])
    assert cells_of(plan_for([layer(file, cells="index", crs=None)]), "p") == {(0, 1): 1.0, (2, 3): 2.0}


# ---------------------------------------------------------------- files


def test_csv_types_come_from_all_rows(tmp_path: Path) -> None:
    rows = 1_500_000  # more than a block of text
    text = "x,y,value,late,name\n" + "500001,3999999,1,1,\n" * rows + "500011,3999999,2,2.5,a\n"
    (tmp_path / "a.csv").write_text(text)
    header = tables.header(str(tmp_path / "a.csv"))
    assert [(c.name, c.dtype) for c in header.columns] == [
        ("x", "int64"), ("y", "int64"), ("value", "int64"), ("late", "float64"), ("name", "")
    ]  # fmt: skip
    assert header.rows == rows + 1
    plan = plan_for([layer(tmp_path / "a.csv", values=("value", "late"), aggregate="max")])
    assert cells_of(plan, "p_value", "p_late") == {(0, 0): (1, 1.0), (0, 1): (2, 2.5)}


def test_several_files_are_one_relation(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", x=[500_001.0], y=[3_999_999.0], value=[2.5])
    with gzip.open(tmp_path / "c.csv.gz", "wb") as file:
        file.write(b"value,y,x\n3,3999999,500001\n,3999999,500001\n")
    write(tmp_path / "a.parquet", x=[500_002.0], y=[3_999_999.0], value=[1])
    (tmp_path / "_SUCCESS.csv").write_text("no table")
    plan = plan_for([layer(tmp_path, aggregate=("sum", "first", "count"))])
    assert [v.dtype for v in plan.spec.variables] == ["float64", "float64", "int64"]
    assert cells_of(plan, "p_sum", "p_first", "p_count") == {(0, 0): (6.5, 1.0, 3)}
    other = plan_for([layer(str(tmp_path / "?.csv*"), aggregate="count")])
    assert cells_of(other, "p") == {(0, 0): 3}  # rows, where no values are named


def test_a_folder_with_rasters_is_no_table(tmp_path: Path) -> None:
    for name in ("a.csv", "notes.txt", "settings.toml"):
        (tmp_path / name).write_text("x,y\n")
    assert tables.expand(str(tmp_path)) == [str(tmp_path / "a.csv")]
    (tmp_path / "a.tif").touch()
    assert tables.expand(str(tmp_path)) == []


def test_mixed_paths_and_keys_of_the_other_sort_are_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a.tif is no table, and others of its paths are"):
        tables.headers(layer(few, paths=(str(few), "a.tif")))
    for key, value in (("resampling", ("mode",)), ("bands", (1,)), ("unpack", False)):
        with pytest.raises(SettingsError, match=rf"{key} = .* is for a raster, and .* is a table"):
            plan_for([layer(few, **{key: value})])
    raster = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "u1"), UTM, GRID.transform)
    with pytest.raises(SettingsError, match=r"weight = 'w' is for a table, and .* is a raster"):
        plan_of(GRID, [Layer("r", (str(raster),), weight="w")])
    with pytest.raises(SettingsError, match=r"table, query and key are for Postgres"):
        tables.headers(layer(few, table="t"))


def test_a_coordinate_may_be_a_value_too_and_text_may_have_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('x,y,name\n500001,3999999,"two\nlines"\n500001,3999999,b\n')
    plan = plan_for([layer(tmp_path / "a.csv", values=("x",), aggregate=("max", "count"))])
    assert plan.spec.variables[0].dtype == "int64"
    assert cells_of(plan, "p_max", "p_count") == {(0, 0): (500_001, 2)}


def test_types_that_no_type_holds_are_refused(tmp_path: Path) -> None:
    at = {"x": [1.0], "y": [1.0]}
    write(tmp_path / "a.parquet", **at, value=pa.array([1], pa.int64()))
    write(tmp_path / "b.parquet", **at, value=pa.array([1], pa.uint64()))
    with pytest.raises(SourceError, match=r"no whole number holds it and int64, uint64"):
        plan_for([layer(tmp_path)])


def test_a_file_that_was_changed_or_is_broken_is_named(few: Path, tmp_path: Path) -> None:
    plan = plan_for([layer(few, values=("value",))])
    few.touch()
    with pytest.raises(SourceError, match=r"few.parquet was changed since the run was planned"):
        table_of(plan)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 nothing")
    with pytest.raises(SourceError, match=r"layer p: .*broken.parquet cannot be read as a table"):
        tables.headers(layer(broken))
    with pytest.raises(SourceError, match=r"absent.csv cannot be read as a table: .*No such file"):
        tables.headers(layer(tmp_path / "absent.csv"))
    named = tmp_path / "latin.csv"
    named.write_bytes(b"x,y,h\xf6he\n1,2,3\n")
    with pytest.raises(SourceError, match=r"latin.csv cannot be read as a table: 'utf-8' codec can't decode"):
        tables.header(str(named))


def test_an_empty_table_is_null_everywhere(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.parquet",
        x=pa.array([], pa.float64()),
        y=pa.array([], pa.float64()),
        value=pa.array([], pa.int32()),
    )
    table = table_of(plan_for([layer(file, cells="centres")], how="grid"))
    assert table.num_rows == table["p"].null_count == 12
    pq.ParquetWriter(tmp_path / "b.parquet", pq.read_schema(file)).close()  # no row group at all
    assert table_of(plan_for([layer(tmp_path / "b.parquet")], how="grid"))["p"].null_count == 12


# ---------------------------------------------------------------- the plan


def test_a_table_forces_the_exchange_and_says_why(few: Path) -> None:
    plan = plan_for([layer(few, values=("value",))])
    assert plan.strategy == "groupby"
    assert "the points of p are read for all tiles at once" in plan.strategy_why
    assert (plan.reads(plan.keys), len(plan.partitions), plan.rasters) == (1, 1, ())
    with pytest.raises(SettingsError, match=r'merge.strategy = "aligned" cannot be: the points of p'):
        plan_for([layer(few, values=("value",))], strategy="aligned")


def test_the_estimate_counts_points_and_not_cells_for_the_exchange(few: Path) -> None:
    plan = plan_for([layer(few, values=("value",))], Grid(UTM, 500_000, 4_000_000, 10, 10, 100_000, 80_000))
    assert plan.estimate.shuffle_bytes == 6 * (24 + 2)
    assert plan.estimate.tasks == plan.estimate.tiles + 1


def test_the_hash_covers_files_columns_and_statistics(few: Path) -> None:
    one = plan_for([layer(few, values=("value",))])
    assert plan_for([layer(few, values=("value",))]).hash == one.hash
    assert plan_for([layer(few, values=("w",))]).hash != one.hash
    assert plan_for([layer(few, values=("value",), aggregate="sum")]).hash != one.hash
    few.touch()
    assert plan_for([layer(few, values=("value",))]).hash != one.hash


def test_row_groups_are_cut_into_parts_of_about_a_million_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PART_ROWS", 5)
    table = pa.table({"x": np.full(12, 500_001.0), "y": np.full(12, 3_999_999.0), "value": np.arange(12)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    plan = plan_for([layer(tmp_path / "a.parquet", aggregate="first")])
    assert [p.part for p in plan.layers[0].table.partitions] == [
        Part(0, 2, 4), Part(2, 4, 4), Part(4, 6, 4)
    ]  # fmt: skip
    assert cells_of(plan, "p") == {(0, 0): 0}


# ---------------------------------------------------------------- the same bytes, however it is read


def tables_by_window(plan: Plan) -> pa.Table:
    return pa.concat_tables(local.merge(plan)).sort_by([("row", "ascending"), ("col", "ascending")])


def test_windows_row_groups_and_formats_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, grid = np.random.default_rng(1), Grid(UTM, 0, 1100, 1, 1, 1200, 1100)
    count = 60_000
    x, y = rng.uniform(-5, 1205, count), rng.normal(550, 100, count).round(1)
    table = pa.table({"x": x, "y": y, "value": rng.lognormal(0, 9, count), "w": rng.random(count)})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=777)
    csv.write_csv(table, tmp_path / "c.csv")
    results = []
    for name, window, rows in (("a.parquet", 512, 1 << 20), ("b.parquet", 1024, 2000), ("c.csv", 2048, 1 << 20)):
        monkeypatch.setattr(tables, "PART_ROWS", rows)
        monkeypatch.setattr(tables, "BATCH_ROWS", 1000)
        wells = layer(tmp_path / name, values=("value",), weight="w", aggregate=("mean", "sum", "min", "first", "mode"))
        results.append(tables_by_window(plan_for([wells], grid, window_size=window)))
    for other in results[1:]:
        assert other.replace_schema_metadata(None).equals(results[0].replace_schema_metadata(None))
    # an engine that asks for some tiles at a time gets the same points
    one = plan_for([layer(tmp_path / "a.parquet", values=("value",))], grid, window_size=512)
    (read, partition), *_ = one.partitions
    whole = sum(len(r.cells) for r in points.read_points(one, read, partition))
    parts = [list(points.read_points(one, read, partition, [k + 2, k, k + 1])) for k in (0, 3, 6)]
    assert sum(len(r.cells) for part in parts for r in part) == whole
    assert {r.tile for r in parts[1]} <= {3, 4, 5}


@given(st.data())
def test_any_split_and_order_of_rows_gives_the_same_bytes(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    cells, values, weights = rng.integers(0, 5, count), rng.lognormal(0, 20, count), rng.random(count)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(count - 1, 1)), max_size=8)) - {count})
    order = np.arange(count)
    pieces = [p for p in np.split(rng.permutation(count), cuts) if len(p)]
    whole = gather([SparseRow(0, 0, cells, order, values, weights)])
    split = gather([SparseRow(0, 0, cells[p], order[p], values[p], weights[p]) for p in pieces])
    for name in STATISTICS:
        (one, valid), (other, also) = statistic(whole, name, "", ""), statistic(split, name, "", "")
        assert one.tobytes() == other.tobytes()
        assert valid.tobytes() == also.tobytes()


def test_sparse_rows_survive_the_exchange_to_the_bit(few: Path) -> None:
    plan = plan_for([layer(few, values=("value", "w"), aggregate=("first", "count"))])
    (read, partition), *_ = plan.partitions
    for weights in (None, np.array([0.1, 0.2])):
        row = SparseRow(0, 2, np.array([0, 3]), np.array([7, 1 << 41]), np.array([0.5, np.inf]), weights)
        back = unpack(plan.spec, pack(row), plan.spec.tile(0))[0]
        assert isinstance(back, SparseRow)
        assert all(
            np.array_equal(getattr(back, n), getattr(row, n))
            for n in ("cells", "order", "values", "weights")
            if getattr(row, n) is not None
        )
        assert (back.weights is None) == (weights is None)
    rows = list(points.read_points(plan, read, partition))
    tile = plan.spec.tile(0)
    packed = pa.concat_tables([pack(row) for row in rows])
    assert merge_tile(plan.spec, tile, unpack(plan.spec, packed, tile)).equals(merge_tile(plan.spec, tile, rows[::-1]))


# ---------------------------------------------------------------- Postgres


@pytest.fixture
def server(postgres_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server under GEOPIPE_POSTGRES_DSN, with a table of wells."""
    monkeypatch.setenv("GEOPIPE_POSTGRES_DSN", postgres_server.dsn)
    postgres_server.execute(
        "DROP SCHEMA IF EXISTS s CASCADE",
        "CREATE SCHEMA s",
        "CREATE TABLE s.wells (id bigint PRIMARY KEY, x float8, y float8, value bigint, w real, name text, d numeric, "
        "ok bool)",
        "INSERT INTO s.wells SELECT i, 500000 + (i * 7919 % 4500) / 100.0, 4000000 - (i * 104729 % 3500) / 100.0, "
        "9007199254740993 + i, i % 3, 'n' || i, i / 10.0, i % 2 = 0 FROM generate_series(1, 500) i",
        "INSERT INTO s.wells VALUES (-5, 500001, 3999999, NULL, 1, NULL, NULL, NULL)",
    )
    return postgres_server


def wells(**overrides: Any) -> Layer:
    return layer(
        "postgresql:", **{"table": None if "query" in overrides else "s.wells", "values": ("value",)} | overrides
    )


def test_a_postgres_table_is_read_by_ranges_of_its_primary_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plan_for([wells(aggregate=("sum", "mean", "first"), weight=None)])
    (header,) = whole.layers[0].table.headers
    assert (header.driver, header.key, header.rows, header.uri) == (
        "PostgreSQL", "id", 501, f"postgresql://127.0.0.1:{server.port}/postgres"
    )  # fmt: skip
    assert [(c.name, c.dtype) for c in header.columns] == [
        ("id", "int64"), ("x", "float64"), ("y", "float64"), ("value", "int64"), ("w", "float32"), ("name", ""),
        ("d", "float64"), ("ok", "uint8"),
    ]  # fmt: skip
    monkeypatch.setattr(tables.postgres, "PART_ROWS", 50)
    monkeypatch.setattr(tables.postgres, "BATCH_ROWS", 7)
    parts = plan_for([wells(aggregate=("sum", "mean", "first"))])
    assert len(parts.partitions) == 11
    assert sum(p.part.rows for _, p in parts.partitions) == 501
    one, other = table_of(whole), table_of(parts)
    assert one.replace_schema_metadata(None).equals(other.replace_schema_metadata(None))
    i = np.arange(1, 501)
    x, y = 500_000 + (i * 7919 % 4500) / 100, 4_000_000 - (i * 104729 % 3500) / 100
    frame = pd.DataFrame({"row": (4_000_000 - y) // 10, "col": (x - 500_000) // 10, "value": 9007199254740993 + i})
    frame = frame[(frame.row < 3) & (frame.col < 4)].astype("int64")
    expected = frame.groupby(["row", "col"]).value.agg(["sum", "first"])
    pairs = zip(expected.index, expected.to_numpy(), strict=True)
    assert cells_of(whole, "p_sum", "p_first") == {cell: tuple(values) for cell, values in pairs}


def test_a_query_is_read_with_and_without_a_key(server: Server) -> None:
    query = "select id, x, y, value, d, ok from s.wells where name like 'n%' and id % 2 = 0;"
    keyed = plan_for([wells(query=query, key="id", values=("value", "d", "ok"), aggregate="first")])
    plain = plan_for([wells(query=query, values=("value", "d", "ok"), aggregate="max")])
    assert keyed.layers[0].table.rows == plain.layers[0].table.rows == 250
    assert {v[2] for v in cells_of(plain, "p_value", "p_d", "p_ok").values()} == {1}
    assert cells_of(keyed, "p_value").keys() == cells_of(plain, "p_value").keys()
    assert keyed.hash != plain.hash


def test_a_table_that_somebody_holds_is_not_waited_for_without_an_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.3)
    with closing(psycopg2.connect(server.dsn)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE s.wells IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceError, match="a statement took too long") as caught:
            postgres.header("postgresql:", wells())
        assert "statement_timeout" in caught.value.hint
        monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 600.0)
        monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=200")
        with pytest.raises(SourceError, match="a statement took too long"):  # the limit of the user goes before ours
            postgres.header("postgresql:", wells())
        monkeypatch.delenv("PGOPTIONS")
    assert postgres.header("postgresql:", wells()).rows > 0


def test_what_is_wrong_with_a_postgres_layer_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for keys, message in (
        ({"table": "s.none"}, "Postgres says: relation .* does not exist"),
        ({"query": "select 1 as x; drop table s.wells"}, "Postgres says: "),
        ({"key": "name"}, "key = 'name' is no column of whole numbers"),
        ({"query": "select nullif(id, 3) as k, x, y, value from s.wells", "key": "k"}, "1 of 501 rows have no k"),
        ({"values": ("name",)}, "has no numbers in its column 'name', but text"),
    ):
        with pytest.raises(SourceError, match=message):
            plan_for([wells(**keys)])
    for keys in ({"query": "select 1"}, {"table": None}):
        with pytest.raises(SettingsError, match=r"one path, and one of table and query"):
            tables.headers(layer("postgresql:", **{"table": "s.wells"} | keys))
    plan = plan_for([wells()])
    server.execute("DELETE FROM s.wells WHERE id = 17")
    with pytest.raises(SourceError, match=r"has 500 rows where the plan counted 501: it was changed"):
        table_of(plan)
    assert plan_for([wells()]).hash != plan.hash
    server.execute("DELETE FROM s.wells")
    assert table_of(plan_for([wells()], how="grid"))["p"].null_count == 12
    monkeypatch.setenv("GEOPIPE_POSTGRES_DSN", server.dsn.replace(PASSWORD, "wrong-secret"))
    with pytest.raises(MachineError, match=r"no connection to Postgres at what GEOPIPE_POSTGRES_DSN") as caught:
        plan_for([wells()])
    assert "wrong-secret" not in str(caught.value)
    assert "password authentication failed" in str(caught.value)
    for dsn in (
        "postgresql://u:p@wrong-secret@nowhere.invalid/x",
        "host=a wrong-secret",
        "postgresql://u:wrong-secret/x@h",
    ):
        monkeypatch.setenv("GEOPIPE_POSTGRES_DSN", dsn)
        with pytest.raises(MachineError) as caught:
            plan_for([wells()])
        assert "wrong-secret" not in str(caught.value)


def test_nothing_can_be_written_through_a_query(server: Server) -> None:
    server.execute("CREATE OR REPLACE FUNCTION s.bad() RETURNS int LANGUAGE sql AS 'DELETE FROM s.wells RETURNING 1'")
    with pytest.raises(SourceError, match=r"cannot execute DELETE in a read-only transaction"):
        plan_for([wells(query="select s.bad() as value, 1.0 as x, 1.0 as y")])


def test_a_password_in_the_settings_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for path in ("postgresql://u:geheim@host/db", "postgresql://host/db?user=u&password=geheim"):
        file = tmp_path / "s.toml"
        file.write_text(
            f'[grid]\ncrs = "EPSG:4326"\nresolution = 1\n[[layers]]\nname = "a"\ntable = "t"\npath = "{path}"\n'
        )
        with pytest.raises(SettingsError, match=r"s.toml:7: layers\.a\.path: there is a password in it") as caught:
            load.load(file)
        assert "geheim" not in str(caught.value)


# ---------------------------------------------------------------- a whole run


def test_parquet_csv_postgres_and_rasters_in_one_run_equal_pandas(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is written apart from the code: floor, groupby and an outer join."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.delenv("GEOPIPE_POSTGRES_DSN")
    rng, (height, width), size = np.random.default_rng(5), (700, 600), 30.0
    x0, y0 = 400_000.0, 4_300_000.0
    bands = {
        "height": rng.normal(size=(height, width)).astype("f4"),
        "cover": rng.integers(0, 9, (height, width)).astype("u1"),
    }
    for name, array in bands.items():
        write_raster(tmp_path / f"{name}.tif", array, UTM, north_up(x0, y0, size), nodata=0)

    def scattered(count: int) -> pd.DataFrame:
        x = rng.uniform(x0 - 100, x0 + width * size + 100, count).round(2)
        return pd.DataFrame({"x": x, "y": rng.uniform(y0 - height * size - 100, y0 + 100, count).round(2)})

    birds, wells_, trees = scattered(30_000), scattered(20_000), scattered(10_000)
    birds["weight"], birds["length"] = rng.random(len(birds)), rng.normal(20, 5, len(birds))
    birds.loc[::7, "length"] = None
    wells_["depth"] = rng.integers(0, 500, len(wells_))
    lon, lat = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(trees.x, trees.y)
    trees = pd.DataFrame({"lon": lon, "lat": lat, "kind": rng.integers(1, 4, len(trees))})
    birds.to_parquet(tmp_path / "birds.parquet", row_group_size=1000)
    trees.to_csv(tmp_path / "trees.csv", index=False)
    wells_.to_csv(tmp_path / "wells.csv", header=False)
    server.execute("CREATE TABLE s.deep (id int PRIMARY KEY, x float8, y float8, depth int)")
    with psycopg2.connect(server.dsn) as connected, connected.cursor() as cursor, open(tmp_path / "wells.csv") as rows:
        cursor.copy_expert("COPY s.deep FROM STDIN WITH CSV", rows)
    connected.close()
    (tmp_path / "s.toml").write_text(f"""
[run]
output = "out"
[grid]
like = "height.tif"
[resampling]
window_size = 512
[[layers]]
name = "height"
path = "height.tif"
[[layers]]
name = "birds"
path = "birds.parquet"
crs = "{UTM}"
values = "length"
weight = "weight"
[[layers]]
name = "deep"
path = "{server.url}"
table = "s.deep"
crs = "{UTM}"
aggregate = ["max", "sum", "count"]
[[layers]]
name = "cover"
path = "cover.tif"
kind = "categorical"
[[layers]]
name = "trees"
path = "trees.csv"
crs = "EPSG:4326"
kind = "categorical"
""")
    code, out, err = call(capsys, "run", "--engine=local", tmp_path / "s.toml")
    assert (code, err.count("error")) == (0, 0)

    def cells(frame: pd.DataFrame, x: Any, y: Any) -> Any:
        frame = frame.assign(row=np.floor((y0 - y) / size), col=np.floor((x - x0) / size))
        kept = frame[frame.row.between(0, height - 1) & frame.col.between(0, width - 1)].astype(
            {"row": int, "col": int}
        )
        return kept.groupby(["row", "col"])

    birds["weight"] = birds.weight.where(birds.length.notna())
    grouped = cells(birds.assign(product=birds.length * birds.weight), birds.x, birds.y)
    expected = pd.DataFrame({"birds": grouped["product"].sum(min_count=1) / grouped.weight.sum(min_count=1)}).dropna()
    deep = cells(wells_, wells_.x, wells_.y).depth.agg(["max", "sum", "count"]).add_prefix("deep_")
    tx, ty = pyproj.Transformer.from_crs("EPSG:4326", UTM, always_xy=True).transform(trees.lon, trees.lat)
    mode = cells(trees, tx, ty).kind.agg(lambda kinds: kinds.mode().iloc[0]).rename("trees")
    rows, cols = np.indices((height, width))
    index = pd.MultiIndex.from_arrays([rows.ravel(), cols.ravel()], names=["row", "col"])
    expected = pd.DataFrame({k: pd.Series(a.ravel(), index).where(lambda v: v != 0) for k, a in bands.items()}).join(
        [expected, deep, mode], how="left"
    )
    names = ["height", "birds", "deep_max", "deep_sum", "deep_count", "cover", "trees"]
    expected = expected[names].dropna(how="all")
    table = pq.read_table(tmp_path / "out" / "parquet")
    assert table.column_names == ["row", "col", "x", "y", *names]
    assert [str(table.schema.field(n).type) for n in names] == [
        "float",
        "double",
        "int32",
        "int64",
        "int64",
        "uint8",
        "int64",
    ]
    result = table.to_pandas().set_index(["row", "col"]).sort_index()
    pd.testing.assert_frame_equal(
        result[names].astype("float64"), expected.astype("float64"), check_index_type=False, rtol=1e-13
    )
    code, out, _ = call(capsys, "validate", tmp_path / "out")
    assert code == 0, out
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


def test_inspect_and_plan_show_tables(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would be cut
    write(tmp_path / "a.csv", x=[1.0], y=[2.0], name=["a"])
    code, out, _ = call(capsys, "inspect", few.name, "a.csv")
    assert code == 0
    assert [line.split() for line in out.splitlines() if "few" in line or "a.csv" in line] == [
        [few.name, "Parquet", "none", "6", "x,", "y,", "value,", "w"],
        ["a.csv", "CSV", "none", "1", "x,", "y,", "name"],
    ]
    code, out, _ = call(capsys, "inspect", few)
    assert "  value        int16" in out
    code, out, _ = call(capsys, "inspect", few, "--json")
    assert json.loads(out)[0]["columns"][3] == {"name": "w", "type": "double"}
    (tmp_path / "s.toml").write_text(
        f'[grid]\ncrs = "{UTM}"\nresolution = 10\nbounds = [500000, 3999970, 500040, 4000000]\n'
        f'[[layers]]\nname = "p"\npath = "few.parquet"\ncrs = "{UTM}"\n'
        'values = "value"\naggregate = ["mean", "count"]\n'
    )
    code, out, _ = call(capsys, "plan", tmp_path / "s.toml", "-v")
    assert code == 0
    assert "columns      p_mean float64, p_count int64" in out
    assert f"from         {few} (Parquet), 6 rows in 1 partition" in out
    assert "places       x, y in EPSG:32612: each point falls into a cell" in out
    assert "aggregate    mean, count of value" in out
    assert "strategy     groupby: the points of p" in out
    code, out, _ = call(capsys, "plan", tmp_path / "s.toml", "--json")
    assert json.loads(out)["layers"][0]["table"]["rows"] == 6


def test_a_broken_table_is_skipped_on_request(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "bad.parquet", x=[500_003.0, None], y=[3_999_993.0] * 2, value=[1, 2])
    text = (
        f'[run]\noutput = "out"\n[grid]\ncrs = "{UTM}"\nresolution = 10\nbounds = [500000, 3999970, 500040, 4000000]\n'
    )
    for name, path, more in (
        ("p", "few.parquet", ""),
        ("q", "bad.parquet", ""),
        ("r", "bad.parquet", 'cells = "centres"\n'),
    ):
        text += (
            f'[[layers]]\nname = "{name}"\npath = "{path}"\ncrs = "{UTM}"\nvalues = "value"\non_error = "skip"\n{more}'
        )
    (tmp_path / "s.toml").write_text(text)
    code, out, err = call(capsys, "run", "--engine=local", tmp_path / "s.toml")
    assert code == 4, err
    table = pq.read_table(tmp_path / "out" / "parquet")
    assert table["q"].null_count == table["r"].null_count == table.num_rows == 2
    assert "1 of 2 rows of" in out


def test_a_layer_whose_sum_needs_more_than_64_bits_is_skipped_on_request(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_a_sum_of_more_than_64_bits(tmp_path, capsys, "local")


def test_a_layer_whose_sum_needs_more_than_64_bits_is_skipped_on_request_on_ray(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_session: None
) -> None:
    skip_a_sum_of_more_than_64_bits(tmp_path, capsys, "ray")


def skip_a_sum_of_more_than_64_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str) -> None:
    write(tmp_path / "big.parquet", x=[500_003.0] * 2, y=[3_999_993.0] * 2, value=[2**62, 2**62])
    text = (
        f'[run]\noutput = "out"\n[grid]\ncrs = "{UTM}"\nresolution = 10\nbounds = [500000, 3999970, 500040, 4000000]\n'
    )
    for name, path in (("p", "few.parquet"), ("q", "big.parquet")):
        text += f'[[layers]]\nname = "{name}"\npath = "{path}"\ncrs = "{UTM}"\nvalues = "value"\naggregate = "sum"\n'
    (tmp_path / "s.toml").write_text(text)
    code, _, err = call(capsys, "run", "--engine", engine, tmp_path / "s.toml")
    assert (code, "layer q, column q, tile 0: a sum of whole numbers is 9,223,372,036,854,775,808" in err) == (1, True)
    (tmp_path / "s.toml").write_text(text + 'on_error = "skip"\n')
    code, _, err = call(capsys, "run", "--engine", engine, tmp_path / "s.toml")
    assert code == 4, err
    table = pq.read_table(tmp_path / "out" / "parquet")
    assert table["q"].null_count == table.num_rows == 2


def test_a_union_needs_a_raster(few: Path, tmp_path: Path) -> None:
    text = f'[grid]\ncrs = "{UTM}"\nresolution = 10\n[[layers]]\nname = "p"\npath = "few.parquet"\nvalues = "w"\n'
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SettingsError, match="the grid has no bounds") as caught:
        draft.draft(load.load(tmp_path / "s.toml"))
    assert "grid.bounds" in caught.value.hint
