"""What the fuzz harness starts from: small valid inputs of each kind, and ways to damage them; all by a seed."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import rasterio.shutil
import xarray as xr
from helpers import north_up, write_raster
from pyproj import CRS

from geopipe import demo
from geopipe.export import ledger
from geopipe.run import pipeline
from geopipe.settings import load

UTM = "EPSG:32632"
GRID = '[grid]\ncrs = "EPSG:32632"\nresolution = 30\nbounds = [500000, 4999100, 501200, 5000000]\n'
LIKE = '[grid]\nlike = "{}"\n'
METHODS = ["auto", "nearest", "bilinear", "cubic", "lanczos", "average", "mode", "min", "med", "std"]
AGGREGATES = ["auto", "mean", "count", "mode", "first"]


def pixels(dtype: str, *shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7 % 251).reshape(shape).astype(dtype)


def make_bases(folder: Path) -> None:
    """Write a folder of valid inputs for each kind and variant: `folder`/KIND/VARIANT."""
    for kind, makers in BASES.items():
        for number, maker in enumerate(makers):
            here = folder / kind / str(number)
            here.mkdir(parents=True)
            maker(here)


# ---------------------------------------------------------------- rasters


def tiff(dtype: str, shape: tuple[int, ...], crs: str = UTM, **profile: Any) -> Callable[[Path], None]:
    transform = north_up(500_000, 5_000_000, 25) if crs == UTM else north_up(9.0, 45.2, 0.004)
    tiled = {"tiled": True, "blockxsize": 16, "blockysize": 16} if profile.get("compress") == "deflate" else {}

    def make(folder: Path) -> None:
        path = write_raster(folder / "input.tif", pixels(dtype, *shape), crs, transform, **tiled, **profile)
        if profile.get("compress") == "deflate":
            with rasterio.open(path, "r+") as ds:
                ds.build_overviews([2])

    return make


def netcdf(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        if kind == "steps":
            lon, lat = 9 + np.arange(20) * 0.001, 45.153 - np.arange(15) * 0.001
            values = pixels("float32", 3, 15, 20)
            data = xr.DataArray(values, coords=[("time", [0, 31, 59]), ("lat", lat), ("lon", lon)], name="tas")
            data.time.attrs = {"units": "days since 1999-01-01", "calendar": "noleap"}
            data.lat.attrs, data.lon.attrs = {"units": "degrees_north"}, {"units": "degrees_east"}
            data.attrs["grid_mapping"] = "crs"
            mapping = xr.DataArray(0, attrs={"grid_mapping_name": "latitude_longitude", "crs_wkt": CRS(4326).to_wkt()})
            xr.Dataset({"tas": data, "crs": mapping}).to_netcdf(folder / "input.nc", engine="scipy")
            return
        source = write_raster(folder / "a.tif", pixels("int16", 30, 40), UTM, north_up(500_000, 5_000_000, 30))
        rasterio.shutil.copy(source, folder / "input.nc", driver="netCDF", FORMAT=kind)
        source.unlink()

    return make


def image(name: str, driver: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        source = write_raster(folder / "a.tif", pixels("uint8", 30, 40), UTM, north_up(500_000, 5_000_000, 30))
        rasterio.shutil.copy(source, folder / name, driver=driver)
        source.unlink()

    return make


# ---------------------------------------------------------------- tables, polygons, STAC


def points() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    count = 60
    return {
        "x": 500_000 + rng.uniform(0, 1200, count).round(2),
        "y": 4_999_100 + rng.uniform(0, 900, count).round(2),
        "value": pa.array([None if i % 9 == 0 else i for i in range(count)], pa.int32()),
        "w": rng.uniform(0, 1, count).round(3),
        "name": [f"well {i}" for i in range(count)],
    }


def parquet(**how: Any) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(pa.table(points()), folder / "input.parquet", **how)


def csv(folder: Path) -> None:
    pacsv.write_csv(pa.table(points()), folder / "input.csv")


def geojson(crs: str | None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        corners = [[500100, 4999200], [501000, 4999200], [501000, 4999900], [500100, 4999800], [500100, 4999200]]
        hole = [[500300, 4999400], [500400, 4999400], [500400, 4999500], [500300, 4999400]]
        if crs is None:  # longitude and latitude, as the standard has it
            corners, hole = ([[9 + (x - 5e5) / 8e4, 45.153 + (y - 5e6) / 1e5] for x, y in r] for r in (corners, hole))
        shapes = [
            {"type": "Polygon", "coordinates": [corners, hole]},
            {"type": "MultiPolygon", "coordinates": [[corners], [hole]]},
        ]
        named = {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs}"}}} if crs else {}
        features = [{"type": "Feature", "properties": {"id": i}, "geometry": s} for i, s in enumerate(shapes)]
        document = {"type": "FeatureCollection", **named, "features": features}
        (folder / "input.geojson").write_text(json.dumps(document, indent=1))
        write_raster(folder / "a.tif", pixels("uint8", 30, 40), UTM, north_up(500_000, 5_000_000, 30))

    return make


def stac(folder: Path) -> None:
    write_raster(folder / "b04.tif", pixels("uint8", 30, 40), UTM, north_up(500_000, 5_000_000, 30))
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene",
        "geometry": None,
        "properties": {"datetime": "2024-06-01T10:00:00Z", "eo:cloud_cover": 12.5},
        "links": [],
        "assets": {"B04": {"href": "./b04.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}},
    }
    collection = {"type": "FeatureCollection", "features": [item, item | {"id": "other"}]}
    (folder / "input.json").write_text(json.dumps(collection, indent=1))


# ---------------------------------------------------------------- settings, states of a run


def toml(folder: Path) -> None:
    write_raster(folder / "a.tif", pixels("uint8", 30, 40), UTM, north_up(500_000, 5_000_000, 30))
    parquet()(folder)
    layers = '[[layers]]\nname = "a"\npath = "a.tif"\nresampling = ["mean", "max"]\nkind = "continuous"\n'
    layers += '[[layers]]\nname = "p"\npath = "input.parquet"\ncrs = "EPSG:32632"\nvalues = ["value"]\n'
    rest = '[resampling]\nwindow_size = 512\ntolerance = "auto"\n[merge]\nhow = "outer"\ndrop = ["a"]\n'
    rest += '[export]\nformats = ["csv"]\nlonlat = true\nchunk_size = 1000\n[monitoring]\nprogress_interval = 5.0\n'
    (folder / "settings.toml").write_text('[run]\nname = "fuzz"\noutput = "out"\n' + GRID + layers + rest)


def all_keys(folder: Path) -> None:
    """The demo's settings with one layer: every key that there is, many behind # signs, which damage takes away."""
    write_raster(folder / "a.tif", pixels("uint8", 30, 40), UTM, north_up(500_000, 5_000_000, 30))
    head, first = re.split(r"^\[\[layers\]\].*$", demo.settings_text(".", "out"), flags=re.M)[:2]
    rest = demo.settings_text(".", "out").partition("[resampling]")[2]
    text = f"{head}[[layers]]{first}[resampling]{rest}"
    for key, value in (("path", '"a.tif"'), ("resolution", "30"), ("bounds", "[500000, 4999100, 501200, 5000000]")):
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.M)
    (folder / "settings.toml").write_text(text)


def state(finished: bool) -> Callable[[Path], None]:
    """A run of four tiles that is finished, or was cut short after two."""

    def make(folder: Path) -> None:
        write_raster(folder / "a.tif", pixels("float32", 30, 40), UTM, north_up(500_000, 5_000_000, 900))
        source = f'"{folder / "a.tif"}"'  # where it stays, so that the copy of this folder is the same run
        text = f'[run]\nname = "fuzz"\noutput = "out"\n[grid]\nlike = {source}\nresolution = 35\n'
        text += f'[resampling]\nwindow_size = 512\n[[layers]]\nname = "a"\npath = {source}\n'
        (folder / "settings.toml").write_text(text)
        write, done = ledger.write_tile, list[int]()

        def stopping(plan: Any, staging: str, chunk: int, tile: Any, *rest: Any) -> Any:
            if len(done) == 2 and not finished:
                raise KeyboardInterrupt
            done.append(tile.key)
            return write(plan, staging, chunk, tile, *rest)

        ledger.write_tile = stopping
        try:
            with suppress(KeyboardInterrupt), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                pipeline.run(load.load(folder / "settings.toml", ("engine.kind=local",)))
        finally:
            ledger.write_tile = write

    return make


BASES: dict[str, list[Callable[[Path], None]]] = {
    "tiff": [
        tiff("float32", (36, 48), compress="deflate", predictor=3, nodata=-1.0, scales=[0.1], offsets=[9.0]),
        tiff("uint8", (36, 48), compress="lzw", colormap={1: (1, 2, 3), 7: (9, 9, 9)}, nodata=0),
        tiff("int16", (3, 36, 48), interleave="pixel", descriptions=("red", "green", "nir"), units=("m", "m", "m")),
        tiff("uint8", (4, 36, 48), photometric="RGB", alpha="yes"),
        tiff("float64", (20, 30), "EPSG:4326", compress="zstd", mask=pixels("bool", 20, 30)),
        tiff("uint16", (36, 48), BIGTIFF="YES", ENDIANNESS="BIG", compress="packbits"),
        tiff("uint8", (3, 48, 48), compress="jpeg", photometric="YCBCR"),
    ],
    "netcdf": [netcdf("steps"), netcdf("NC"), netcdf("NC4C")],
    "image": [image("input.png", "PNG"), image("input.jp2", "JP2OpenJPEG"), image("input.img", "HFA")],
    "parquet": [parquet(), parquet(compression="zstd", row_group_size=20), parquet(use_dictionary=False)],
    "csv": [csv],
    "geojson": [geojson("32632"), geojson(None)],
    "stac": [stac],
    "toml": [toml, all_keys],
    "state": [state(True), state(False)],
}


# ---------------------------------------------------------------- damage


NUMBERS = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
]
WORDS = [
    "null", "true", "-1", "0", "1e400", "-1e308", "1e-320", "NaN", "nan", "inf", "[]", "{}", "[[]]", '""', '"\\u0000"',
    "9" * 40, '"' + "x" * 3000 + '"', "[" * 40 + "]" * 40, '"\u202e\x1b[2J"', '"/"', '"../../etc"', '"EPSG:0"', "'",
    '"a.tif"', "[1, 2]", "18446744073709551616", "0x7f", "1979-05-27", '"-"', '"2024-13-01T00:00:00Z"', "{a = 1}",
]  # fmt: skip
VALUES = [None, True, -1, 0, 2**70, 1e308, -0.5, float("nan"), "", "x" * 2000, "\x1b[31m\u202e", [], {}, [[]], "../x"]


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or drop bytes: near the beginning, near the end (footers) or anywhere."""
    if not data:
        return bytes([rng.randrange(256)])
    reach = rng.choice([(0, min(512, len(data))), (max(0, len(data) - 1024), len(data)), (0, len(data))])
    at = rng.randrange(*reach)
    length = rng.choice([1, 1, 2, 4, 8, 40, 300])
    match rng.randrange(7):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            packed = struct.pack(rng.choice("<>") + "Q", rng.choice(NUMBERS))
            size = rng.choice([1, 2, 4, 8])
            return data[:at] + (packed[:size] if rng.random() < 0.5 else packed[-size:]) + data[at + size :]
        case 2:
            return data[:at] + rng.randbytes(length) + data[at + length :]
        case 3:
            return data[:at]
        case 4:
            return data[:at] + data[at + length :]
        case 5:
            return data[: at + length] + data[at:]
        case _:
            other = rng.randrange(len(data))
            return data[:at] + data[other : other + length] + data[at + length :]


def damage_directory(data: bytes, rng: random.Random) -> bytes:
    """Change the tag, type, count or value of an entry of a TIFF's first directory."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    with suppress(struct.error, ValueError):  # damaged already
        start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
        entry = start + (8 if big else 2) + (20 if big else 12) * rng.randrange(count)
        place, size = rng.choice([(0, "H"), (2, "H"), (4, "Q" if big else "I"), (12 if big else 8, "I")])
        number = rng.choice([*NUMBERS, rng.randrange(1 << 16)]) % (1 << 8 * struct.calcsize(size))
        changed = bytearray(data)
        struct.pack_into(order + size, changed, entry + place, number)
        return bytes(changed)
    return data


def damage_text(data: bytes, rng: random.Random) -> bytes:
    """Change words and lines, so that most of the text stays valid."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    keys = [i for i, line in enumerate(lines) if line.startswith("# ") and " = " in line]
    match rng.randrange(9):
        case 0:
            del lines[at]
        case 8 if keys:
            at = rng.choice(keys)
            lines[at] = lines[at][2:]
        case 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 2:
            lines[at] = lines[at].rstrip("\n") + rng.choice(["\r", "\r\n", "\0\n", "\u2028", "\x85\n"])
        case 3:
            return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0"]) + data
        case 4:
            encoding = rng.choice(["utf-16", "latin-1", "utf-32"])
            return (text + "\u00e4").encode(encoding, "replace")
        case _:  # another value behind the last =, : or , of the line
            cut = max(lines[at].rfind(c) for c in "=:,[") + 1
            ending = "," if lines[at].rstrip().endswith(",") else ""
            lines[at] = lines[at][:cut] + " " + rng.choice(WORDS) + ending + "\n"
    return "".join(lines).encode("utf-8", "surrogateescape")


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, drop or rename something in a JSON document, or in one of its lines."""
    lines = data.splitlines() if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except ValueError:
        return damage_text(data, rng)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(document)
    if not places:
        return damage_text(data, rng)
    parent, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del parent[key]
        case 1:
            parent[key] = [parent[key]]
        case _:
            values = [
                None,
                True,
                -1,
                0,
                2**70,
                1e308,
                float("nan"),
                "",
                "x" * 2000,
                "\x1b[31m\u202e",
                [],
                {},
                [[]],
                "../x",
                -0.5,
            ]
            parent[key] = rng.choice(values)
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines) + b"\n"


DAMAGE: dict[str, list[Callable[[bytes, random.Random], bytes]]] = {
    "tiff": [damage_bytes, damage_directory],
    "csv": [damage_bytes, damage_text],
    "geojson": [damage_bytes, damage_text, damage_json, damage_json],
    "stac": [damage_bytes, damage_text, damage_json, damage_json],
    "toml": [damage_bytes, damage_text, damage_text, damage_text],
    "state": [damage_bytes, damage_text, damage_json, damage_json],
}


# ---------------------------------------------------------------- one input


def make_input(bases: Path, folder: Path, kind: str, seed: int) -> list[list[str]]:
    """Copy a base to `folder`, damage a file of it, and return the commands of geopipe that are to meet it."""
    rng = random.Random(f"{kind} {seed}")
    base = bases / kind / str(rng.randrange(len(BASES[kind])))
    shutil.copytree(base, folder)
    if kind == "state":
        files = sorted(p for p in (folder / "out").rglob("*") if p.is_file() and p.suffix not in (".parquet", ".gz"))
        victim = rng.choice(files)
    else:
        victim = folder / "settings.toml" if kind == "toml" else next(folder.glob("input.*"))
    data = victim.read_bytes()
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        data = rng.choice(DAMAGE.get(kind, [damage_bytes]))(data, rng)
    victim.write_bytes(data)
    file = str(folder / "settings.toml")
    if kind not in ("toml", "state"):
        (folder / "settings.toml").write_text(settings_for(kind, victim.name, rng))
    output = str(folder / "out")
    if kind in ("toml", "state", "geojson", "stac"):
        begin = [["config", "show", file], ["status", output], ["validate", output]]
    else:
        begin = [["inspect", str(victim)], ["inspect", str(victim), "--json"]]
    run = ["run", file, "--engine=local", *rng.choice([[], ["--resume"], ["--overwrite"]])]
    return [
        *begin,
        ["plan", file],
        run,
        ["status", output],
        ["validate", output],
        ["run", file, "--engine=local", "--resume"],
    ]


def settings_for(kind: str, name: str, rng: random.Random) -> str:
    """Settings of a run that meets the file as a layer, as the grid, or as the mask."""
    layer = f'[[layers]]\nname = "a"\npath = "{name}"\n'
    grid = GRID
    if kind == "geojson":
        grid += f'mask = "{name}"\n'
        layer = layer.replace(name, "a.tif")
    elif kind in ("parquet", "csv"):
        layer += 'crs = "EPSG:32632"\n'
        layer += rng.choice(['values = ["value"]\nweight = "w"\n', f'aggregate = "{rng.choice(AGGREGATES)}"\n'])
    else:
        grid = rng.choice([GRID, GRID, GRID.partition("bounds")[0], GRID if kind == "stac" else LIKE.format(name)])
        grid += f'mask = "{name}"\n' if rng.random() < 0.2 and kind != "stac" else ""
        method = f'resampling = "{rng.choice(METHODS)}"\nkind = "continuous"\n'
        layer += rng.choice([method, method, 'kind = "categorical"\nfractions = true\n', "valid_fraction = true\n"])
        layer += rng.choice(["", 'asset = "B04"\n', 'sort_by = "-cloud_cover"\n']) if kind == "stac" else ""
    layer += rng.choice(["", "", 'on_error = "skip"\n'])
    return '[run]\nname = "fuzz"\noutput = "out"\n' + grid + layer
