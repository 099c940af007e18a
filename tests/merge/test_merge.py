"""The merge: block rows into one tile of the table, by hand-made tables and by a slow merge in pandas."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geopipe.grid.grid import Grid, Tile, strips_of
from geopipe.layers.header import Band
from geopipe.layers.layer import Overlap, Variable
from geopipe.merge.blocks import SHUFFLE_SCHEMA, BlockRow, marker, pack, unpack
from geopipe.merge.spec import TableSpec
from geopipe.merge.tile import merge_tile, overlay

# 3 columns x 2 rows of 10 x 20 m; the upper left corner is (100, 1000)
GRID = Grid("EPSG:32612", 100.0, 1000.0, 10.0, 20.0, width=3, height=2)
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]


def spec_of(*columns: tuple[str, str, str], how: str = "outer", grid: Grid = GRID, **overrides: Any) -> TableSpec:
    """A spec with (name, type, layer) columns."""
    variables = tuple(Variable(name, dtype, layer, Band(1, dtype)) for name, dtype, layer in columns)
    overlap = overrides.pop("overlap", Overlap.FIRST)
    return TableSpec(grid, 512, variables, (overlap,) * len(variables), how, **overrides)


def row(variable: int, values: Any, dtype: str, rank: int = 0, tile: int = 0) -> BlockRow:
    """A block row of a nested list in which None is missing."""
    valid = np.array([[v is not None for v in line] for line in values])
    filled = np.array([[0 if v is None else v for v in line] for line in values], dtype)
    if filled.dtype.kind == "f":
        filled[~valid] = np.nan  # what lies under a null must not matter
    else:
        filled[~valid] = np.iinfo(filled.dtype).max
    return BlockRow(tile, variable, rank, filled, None if valid.all() else valid)


A = [[1.5, None, 0.0], [None, None, 6.0]]
B = [[10, 20, None], [None, None, 0]]
MERGED = {  # row, col, x, y, a, b: centres by hand
    "outer": [
        (0, 0, 105.0, 990.0, 1.5, 10),
        (0, 1, 115.0, 990.0, None, 20),
        (0, 2, 125.0, 990.0, 0.0, None),
        (1, 2, 125.0, 970.0, 6.0, 0),
    ],
    "inner": [(0, 0, 105.0, 990.0, 1.5, 10), (1, 2, 125.0, 970.0, 6.0, 0)],
    "grid": [
        (0, 0, 105.0, 990.0, 1.5, 10),
        (0, 1, 115.0, 990.0, None, 20),
        (0, 2, 125.0, 990.0, 0.0, None),
        (1, 0, 105.0, 970.0, None, None),
        (1, 1, 115.0, 970.0, None, None),
        (1, 2, 125.0, 970.0, 6.0, 0),
    ],
}


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(r.values()) for r in table.to_pylist()]


@pytest.mark.parametrize("how", MERGED)
def test_merge_by_hand(how: str) -> None:
    spec = spec_of(("a", "float32", "la"), ("b", "int16", "lb"), how=how)
    table = merge_tile(spec, spec.tile(0), [row(1, B, "int16"), row(0, A, "float32")])
    assert rows_of(table) == MERGED[how]
    assert table.schema.equals(spec.schema)
    table.validate(full=True)


def test_a_true_zero_is_data_and_a_hole_is_a_null() -> None:
    spec = spec_of(("a", "uint8", "la"))
    table = merge_tile(spec, spec.tile(0), [row(0, [[0, None, 0], [None, 0, None]], "uint8")])
    assert table["a"].to_pylist() == [0, 0, 0]
    assert list(zip(table["row"].to_pylist(), table["col"].to_pylist(), strict=True)) == [(0, 0), (0, 2), (1, 1)]


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("overlap", [Overlap.FIRST, Overlap.LAST, Overlap.MIN, Overlap.MAX])
def test_64_bit_integers_keep_their_last_bit(value: int, overlap: Overlap) -> None:
    spec = spec_of(("a", "int64", "la"), overlap=overlap)
    one, two = row(0, [[value, None, 3]] * 2, "int64"), row(0, [[None, value, None]] * 2, "int64", rank=1)
    assert merge_tile(spec, spec.tile(0), [one, two])["a"].to_pylist() == [value, value, 3] * 2


def test_a_sum_of_64_bit_integers_keeps_its_last_bit() -> None:
    spec = spec_of(("a", "int64", "la"), overlap=Overlap.SUM)
    rows = [row(0, [[2**53, 5, 7]] * 2, "int64"), row(0, [[1, None, 7]] * 2, "int64", rank=1)]
    assert merge_tile(spec, spec.tile(0), rows)["a"].to_pylist() == [2**53 + 1, 5, 14] * 2


SOURCES = [[[1, None, 8], [None, 5, 0]], [[4, 2, None], [None, 5, 3]], [[None, 9, 2], [None, None, 3]]]
SETTLED = {  # of SOURCES, cell by cell
    Overlap.FIRST: [1, 2, 8, None, 5, 0],
    Overlap.LAST: [4, 9, 2, None, 5, 3],
    Overlap.MEAN: [2.5, 5.5, 5, None, 5, 2],
    Overlap.MIN: [1, 2, 2, None, 5, 0],
    Overlap.MAX: [4, 9, 8, None, 5, 3],
    Overlap.SUM: [5, 11, 10, None, 10, 6],
}


@given(st.permutations(range(3)), st.sampled_from(Overlap))
def test_overlaps_are_settled_by_rank_whatever_the_order_of_arrival(order: list[int], overlap: Overlap) -> None:
    spec = spec_of(("a", "float32", "la"), how="grid", overlap=overlap)
    rows = [row(0, SOURCES[i], "float32", rank=i) for i in order]
    assert merge_tile(spec, spec.tile(0), rows)["a"].to_pylist() == SETTLED[overlap]


@given(st.permutations(range(3)), st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3))
def test_rounding_of_means_and_sums_does_not_depend_on_the_order_of_arrival(
    order: list[int], values: list[float]
) -> None:
    for overlap in (Overlap.MEAN, Overlap.SUM):
        spec = spec_of(("a", "float32", "la"), overlap=overlap)
        rows = [row(0, [[v] * 3] * 2, "float32", rank=i) for i, v in enumerate(values)]
        moved = [rows[i] for i in order]
        assert merge_tile(spec, spec.tile(0), moved).equals(merge_tile(spec, spec.tile(0), rows))


def test_overlay_leaves_what_it_was_given_as_it_is() -> None:
    parts = [row(0, s, "int16", rank=i) for i, s in enumerate(SOURCES)]
    before = [(p.values.copy(), p.valid.copy()) for p in parts if p.valid is not None]
    for overlap in Overlap:
        overlay([(p.values, p.valid) for p in parts], overlap)
    for part, (values, valid) in zip(parts, before, strict=True):
        assert (part.values == values).all()
        assert (part.valid == valid).all()


@pytest.mark.parametrize(("how", "count"), [("outer", 0), ("inner", 0), ("grid", 6)])
def test_a_tile_that_no_source_meets_keeps_the_schema(how: str, count: int) -> None:
    spec = spec_of(("a", "float32", "la"), ("b", "int64", "lb"), how=how, metadata=(("geopipe:plan_hash", "1f"),))
    table = merge_tile(spec, spec.tile(0), [])
    assert table.num_rows == count
    assert table.schema.equals(spec.schema, check_metadata=True)
    assert table["b"].null_count == count


def test_the_schema_says_types_nullability_and_origin() -> None:
    band = Band(3, "float32", description="B4", unit="K")
    spec = TableSpec(GRID, 512, (Variable("t", "float32", "lst", band, "K"),), (Overlap.FIRST,), "outer")
    assert [(f.name, f.type, f.nullable) for f in spec.schema] == [
        ("row", pa.int32(), False),
        ("col", pa.int32(), False),
        ("x", pa.float64(), False),
        ("y", pa.float64(), False),
        ("t", pa.float32(), True),
    ]
    assert spec.schema.field("t").metadata == {b"layer": b"lst", b"band": b"3", b"unit": b"K", b"description": b"B4"}


def test_inner_asks_for_each_layer_and_not_for_each_band() -> None:
    # la has two bands: a cell counts as soon as one of them is there
    spec = spec_of(("a_1", "uint8", "la"), ("a_2", "uint8", "la"), ("b", "uint8", "lb"), how="inner")
    rows = [
        row(0, [[1, None, None], [None, 1, None]], "uint8"),
        row(1, [[None, 2, None], [None, 2, None]], "uint8"),
        row(2, [[3, 3, 3], [3, None, None]], "uint8"),
    ]
    assert rows_of(merge_tile(spec, spec.tile(0), rows)) == [
        (0, 0, 105.0, 990.0, 1, None, 3),
        (0, 1, 115.0, 990.0, None, 2, 3),
    ]


def test_a_tile_inside_the_grid_counts_from_the_grids_corner() -> None:
    grid = Grid("EPSG:32612", 0.0, 0.0, 1.0, 1.0, width=514, height=513)
    spec = spec_of(("a", "uint8", "la"), grid=grid)
    assert rows_of(merge_tile(spec, spec.tile(3), [row(0, [[7, 8]], "uint8", tile=3)])) == [
        (512, 512, 512.5, -512.5, 7),
        (512, 513, 513.5, -512.5, 8),
    ]


@st.composite
def tiles(draw: st.DrawFn, dtype: str, ranks: int) -> tuple[Grid, list[list[BlockRow]], list[str]]:
    """A small grid and, for each of up to three variables, block rows of up to `ranks` sources."""
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    values = st.integers(0, 50) if dtype != "float32" else st.floats(-50, 50, width=32)
    line = st.lists(st.none() | values, min_size=width, max_size=width)
    block = st.lists(line, min_size=height, max_size=height)
    rows = [
        [row(v, b, dtype, rank=r) for r, b in enumerate(draw(st.lists(block, max_size=ranks)))]
        for v in range(draw(st.integers(1, 3)))
    ]
    layers = draw(st.lists(st.sampled_from("pq"), min_size=len(rows), max_size=len(rows)).map(sorted))
    return Grid("EPSG:32612", 100.0, 1000.0, 10.0, 20.0, width, height), rows, layers


def slow_merge(spec: TableSpec, tile: Tile, rows: list[BlockRow]) -> pd.DataFrame:
    """The meaning of the merge, cell by cell in pandas: long rows, reduced, joined on row and col, kept or not."""
    cells = [(r, c) for r in range(tile.height) for c in range(tile.width)]
    wide = pd.DataFrame(cells, columns=["row", "col"])
    for index, variable in enumerate(spec.variables):
        long = pd.DataFrame(
            [
                (r, c, b.rank, b.values[r, c])
                for b in rows
                if b.variable == index
                for r, c in cells
                if b.valid is None or b.valid[r, c]
            ],
            columns=["row", "col", "rank", variable.name],
        ).sort_values("rank")
        rule = spec.overlaps[index].value
        wide = wide.merge(long.groupby(["row", "col"])[variable.name].agg(rule).reset_index(), "outer", ["row", "col"])
    has = pd.DataFrame({v.name: wide[v.name].notna() for v in spec.variables})
    by_layer = has.T.groupby([v.layer for v in spec.variables]).any().T
    keep = {"outer": by_layer.any(axis=1), "inner": by_layer.all(axis=1), "grid": by_layer.any(axis=1) | True}
    return wide[keep[spec.how]].sort_values(["row", "col"]).reset_index(drop=True)


@given(st.data(), st.sampled_from(["outer", "inner", "grid"]), st.sampled_from(Overlap))
@settings(max_examples=60)
def test_merge_equals_an_outer_join_in_pandas(data: st.DataObject, how: str, overlap: Overlap) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64", "int32"]))
    if dtype == "int32" and overlap is Overlap.MEAN:
        dtype = "float64"  # what a mean of integers is, is asked of the plan
    grid, rows, layers = data.draw(tiles(dtype, ranks=3))
    names = [(f"v{i}", dtype, layer) for i, layer in enumerate(layers)]
    spec = spec_of(*names, how=how, grid=grid, overlap=overlap)
    rows = data.draw(st.permutations([r for parts in rows for r in parts]))
    table = merge_tile(spec, spec.tile(0), rows)
    expected = slow_merge(spec, spec.tile(0), rows)
    assert table["row"].to_pylist() == expected["row"].tolist()
    assert table["col"].to_pylist() == expected["col"].tolist()
    assert table["x"].to_pylist() == [100 + 10 * (c + 0.5) for c in expected["col"]]
    assert table["y"].to_pylist() == [1000 - 20 * (r + 0.5) for r in expected["row"]]
    for name, _, _ in names:
        target = [None if pd.isna(v) else v for v in expected[name]]
        got = table[name].to_pylist()
        assert [v is None for v in got] == [v is None for v in target]
        pairs = [(g, w) for g, w in zip(got, target, strict=True) if g is not None]
        assert [g for g, _ in pairs] == pytest.approx([w for _, w in pairs], rel=1e-6, abs=1e-5)


@given(st.data(), st.sampled_from(TYPES))
@settings(max_examples=40)
def test_block_rows_survive_the_exchange_to_the_bit(data: st.DataObject, dtype: str) -> None:
    grid, rows, layers = data.draw(tiles(dtype, ranks=2))
    spec = spec_of(*((f"v{i}", dtype, layer) for i, layer in enumerate(layers)), grid=grid)
    rows = [r for parts in rows for r in parts]
    packed = pa.concat_tables([pack(row) for row in (marker(0), *rows)])
    assert packed.schema.equals(SHUFFLE_SCHEMA)
    whole = packed.combine_chunks()  # what a shuffle gives is neither one chunk nor one chunk a row
    back = unpack(spec, pa.concat_tables([whole.slice(0, 2), whole.slice(2)]), spec.tile(0))
    assert len(back) == len(rows)
    for one, two in zip(rows, back, strict=True):
        assert (one.tile, one.variable, one.rank) == (two.tile, two.variable, two.rank)
        assert one.values.dtype == two.values.dtype
        assert one.values.tobytes() == two.values.tobytes()
        assert (one.valid is None) == (two.valid is None)
        assert one.valid is None or two.valid is None or (one.valid == two.valid).all()
    assert merge_tile(spec, spec.tile(0), back).equals(merge_tile(spec, spec.tile(0), rows))


def test_only_a_marker_makes_an_empty_tile() -> None:
    spec = spec_of(("a", "float32", "la"))
    assert unpack(spec, pack(marker(0)), spec.tile(0)) == []
    assert unpack(spec, SHUFFLE_SCHEMA.empty_table(), spec.tile(0)) == []


def test_packing_shares_memory_and_keeps_none() -> None:
    spec = spec_of(("a", "float32", "la"))
    tile = spec.tile(0)
    values = np.ones((tile.height, tile.width), np.float32)
    kept = weakref.ref(values)
    packed = pack(BlockRow(0, 0, 0, values, None))
    assert np.shares_memory(np.frombuffer(packed["values"].chunk(0).buffers()[2], np.float32), values)
    (row,) = unpack(spec, packed, tile)
    assert isinstance(row, BlockRow)
    assert np.shares_memory(row.values, values)
    del values, packed, row
    assert kept() is None


def test_a_tile_from_the_shuffle_is_merged_in_strips_without_a_copy() -> None:
    """Block rows of a whole tile, of strips, and a mask; the width is no multiple of eight cells."""
    grid = Grid("EPSG:32612", 100.0, 1000.0, 10.0, 20.0, width=13, height=1100)
    spec = TableSpec(
        grid, 2048, spec_of(("a", "float32", "la"), ("b", "int16", "lb")).variables, (Overlap.FIRST,) * 2, "grid"
    )
    tile, rng = spec.tile(0), np.random.default_rng(0)
    a, b = rng.normal(size=(1100, 13)).astype("float32"), rng.integers(0, 99, (1100, 13)).astype("int16")
    holes, inside = rng.random((1100, 13)) < 0.7, rng.random((1100, 13)) < 0.8
    rows = [marker(0, inside), marker(0), BlockRow(0, 0, 0, a, holes), BlockRow(1, 0, 0, a, None)]
    rows += [BlockRow(0, 1, 0, b[top : top + 512], None, top) for top in (0, 512, 1024)]
    packed = pa.concat_tables(map(pack, rows))
    whole = merge_tile(spec, tile, unpack(spec, packed, tile))
    strips = strips_of(tile)
    parts = [unpack(spec, packed, strip) for strip in strips]
    merged = [merge_tile(spec, strip, part) for strip, part in zip(strips, parts, strict=True)]
    assert pa.concat_tables(merged).combine_chunks().equals(whole.combine_chunks())
    assert whole.num_rows == inside.sum()
    assert [np.shares_memory(part[1].values, a) for part in parts if isinstance(part[1], BlockRow)] == [True] * 3
