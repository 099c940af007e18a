"""A file that is cut short or damaged is an error of its source, and never another value."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from click.testing import CliRunner
from helpers import north_up, plan_of, table_of, write_raster

from geopipe.cli.main import cli
from geopipe.errors import SourceError
from geopipe.grid.grid import Grid
from geopipe.layers.layer import Layer
from geopipe.load import messages as gdalmessages
from geopipe.load import raster
from geopipe.run import pipeline
from geopipe.settings import load

GRID = Grid("EPSG:32612", 500_000, 4_000_000, 30, 30, width=64, height=64)
LAYOUTS = {
    "striped": {},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    "bigtiff": {"BIGTIFF": "YES", "compress": "lzw"},
}


def packed(path: Path, **layout: object) -> Path:
    """64 x 64 pixels with scale and offset, which GDAL keeps in a tag at the end of the file."""
    pixels = np.random.default_rng(0).integers(0, 1000, (64, 64)).astype("int16")
    more = {"nodata": -1, "scales": (0.01,), "offsets": (5.0,)}
    return write_raster(path, pixels, GRID.crs, north_up(GRID.x0, GRID.y0, 30), **more, **layout)


def run(folder: Path, *layers: str) -> pipeline.Summary:
    file = folder / "s.toml"
    grid = 'crs = "EPSG:32612"\nresolution = 30\nbounds = [500000, 3998080, 501920, 4000000]\n'
    file.write_text(f"[grid]\n{grid}" + "".join(f"[[layers]]\n{text}\n" for text in layers))
    return pipeline.run(load.load(file, ("engine.kind=local",)))


# ---------------------------------------------------------------- cut short


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_is_cut_short_never_gives_another_value(tmp_path: Path, layout: str) -> None:
    whole = packed(tmp_path / "a.tif", **LAYOUTS[layout]).read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole)
    layer = Layer("a", (str(cut),))
    right = table_of(plan_of(GRID, [layer]))
    assert right.num_rows == 4096
    for gone in [*range(1, 201), len(whole) // 2]:
        cut.write_bytes(whole[:-gone])
        with pytest.raises(SourceError, match=r"cut\.tif .*GDAL says|cut\.tif is no raster|cannot be read"):
            table_of(plan_of(GRID, [layer]))


def test_a_file_that_lost_its_scale_stops_the_run_or_is_left_out(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r'layer a: .*a\.tif is damaged .*IO error during reading of "GDALMetadata"'):
        run(tmp_path, 'name = "a"\npath = "a.tif"')
    assert not (tmp_path / "output").exists()
    packed(tmp_path / "b.tif")
    skipped = run(tmp_path, 'name = "a"\npath = "a.tif"\non_error = "skip"', 'name = "b"\npath = "b.tif"')
    assert skipped.exit_code == 4
    assert "GDALMetadata" in skipped.skipped["a"]


def test_what_is_lost_after_the_plan_ends_the_run_too(tmp_path: Path) -> None:
    """A worker opens the file anew: one that keeps size and time, and lost its tag."""
    path = packed(tmp_path / "a.tif")
    plan = plan_of(GRID, [Layer("a", (str(path),))])
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().replace(b"<GDALMetadata>", b"<GDALMetadata "))
    os.utime(path, ns=(before, before))
    with pytest.raises(SourceError, match=r"layer a: .*a\.tif is damaged"):
        table_of(plan)


@pytest.mark.parametrize("gone", [1, 50, 150, 200])
def test_a_server_that_ends_a_response_early_never_gives_another_value(www: tuple[Path, int], gone: int) -> None:
    folder, port = www
    packed(folder / "a.tif")
    address = f"http://127.0.0.1:{port}/a.tif"
    assert table_of(plan_of(GRID, [Layer("a", (address,))])).num_rows == 4096
    with pytest.raises(SourceError, match=r"a\.tif\?short="):
        table_of(plan_of(GRID, [Layer("a", (f"{address}?short={gone}",))]))


# ---------------------------------------------------------------- what GDAL says


def test_a_message_that_is_no_text_is_heard(tmp_path: Path) -> None:
    """rasterio drops a message that is not UTF-8 inside GDAL's callback, where nothing can be raised."""
    path = packed(tmp_path / "a.tif")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"<GDALMetadata>", b"<GDALMeta\xff\xfea>"))
    with pytest.raises(SourceError, match="GDAL says"):
        raster.inspect(str(path))


def test_a_tag_that_says_nothing_of_values_may_be_odd(tmp_path: Path) -> None:
    """The tag of the software (305) has a type that it cannot have: libtiff ignores it."""
    path = packed(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as ds:
        ds.update_tags(TIFFTAG_SOFTWARE="a long name of a program")
    whole = path.read_bytes()
    entry = struct.pack("<HH", 305, 2)  # its number, and the type ASCII
    assert whole.count(entry) == 1
    path.write_bytes(whole.replace(entry, struct.pack("<HH", 305, 12)))
    with raster.environment(), gdalmessages.listening() as messages, rasterio.open(path):
        pass
    assert any("Software" in text for _, text in messages), "else this test shows nothing"
    assert raster.inspect(str(path)).bands[0].scale == 0.01


@pytest.mark.parametrize(
    ("is_error", "text", "ends"),
    [
        (False, 'TIFFFetchNormalTag:IO error during reading of "DateTime"; tag ignored', True),
        (False, 'TIFFFetchNormalTag:Incompatible type for "DateTime"; tag ignored', False),
        (False, 'TIFFFetchNormalTag:Incompatible type for "GDALNoDataValue"; tag ignored', True),
        (False, "TIFFReadDirectoryCheckOrder:Invalid TIFF directory; tags are not sorted in ascending order", False),
        (False, "HTTP error code: 503 - http://host/a.tif. Retrying again in 0.5 secs", False),
        (True, "PROJ: proj_create_operations: grid us_noaa_conus.tif cannot be found", False),
        (True, "whatever an error says", True),
        (False, "The file has an unusual number of bands", False),
    ],
)
def test_what_ends_a_source(is_error: bool, text: str, ends: bool) -> None:
    assert bool(gdalmessages.damages([(is_error, text)])) == ends


def test_the_name_of_a_file_says_nothing_of_it() -> None:
    lost = (False, 'it is deprecated.tif: TIFFFetchNormalTag:IO error during reading of "GDALMetadata"; tag ignored')
    assert gdalmessages.damages([lost], "/data/it is deprecated.tif")
    kept = (False, "bad_error_missing.tif: RowsPerStrip not defined ... assuming all one strip.")
    assert not gdalmessages.damages([kept], "https://host/bad_error_missing.tif?sig=1")


def test_healthy_files_are_not_taken_for_damaged(shared_data: Path) -> None:
    """Each real file, and each variable in one: but for the one that is damaged, GDAL says nothing of any."""
    beside = (".md", ".xml", ".json", ".txt", ".gpkg", ".geojson")
    files = [p for p in sorted(shared_data.rglob("*.*")) if p.is_file() and p.suffix not in beside]
    assert len(files) > 40
    for path in files:
        header = raster.inspect(str(path))
        for uri in header.subdatasets or (str(path),):
            with raster.environment(), rasterio.open(uri) as ds, gdalmessages.listening() as messages:
                for band in ds.indexes:
                    if path.name != "corrupt.tif":
                        ds.read(band)
                        ds.read_masks(band)
            assert not messages, uri


def test_hearing_leaves_logging_as_it_was() -> None:
    loggers = [logging.getLogger(name) for name in gdalmessages.LOGGERS]
    before = [(logger.level, logger.filters[:]) for logger in loggers], sys.unraisablehook
    with raster.environment(), raster.environment():
        assert sys.unraisablehook is not before[1]
    assert ([(logger.level, logger.filters[:]) for logger in loggers], sys.unraisablehook) == before


SIGNAL = """
import logging, os, signal, sys
from geopipe.cli import main as cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored

class Now(logging.Filter):
    left = True
    def filter(self, record):  # GDAL's callback: what is raised here is dropped
        if self.left and record.levelno >= logging.WARNING:
            self.left = False
            os.kill(os.getpid(), {number})
            for _ in range(1000):
                pass
        return True

logging.getLogger("rasterio._env").filters.insert(0, Now())
sys.argv = ["geopipe", "run", {file!r}, "--engine=local"]
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_callback_of_gdal_is_not_lost(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """GDAL says something harmless of the file, and the signal arrives in rasterio's log of it."""
    path = packed(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as ds:
        ds.update_tags(TIFFTAG_SOFTWARE="a long name of a program")
    path.write_bytes(path.read_bytes().replace(struct.pack("<HH", 305, 2), struct.pack("<HH", 305, 12)))
    file = tmp_path / "s.toml"
    file.write_text('[grid]\nlike = "a.tif"\n[[layers]]\nname = "a"\npath = "a.tif"\n')
    script = SIGNAL.format(number=int(number), file=str(file))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "output/_SUCCESS").exists()


# ---------------------------------------------------------------- neither files nor folders


@pytest.mark.parametrize("name", ["a.tif", "a.parquet", "a.csv", "a.json", "a"])
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    pipe = tmp_path / name
    os.mkfifo(pipe)
    with pytest.raises(SourceError, match=rf"layer a: .*{name} is a pipe, a socket or a device"):
        run(tmp_path, f'name = "a"\npath = "{name}"')
    shown = CliRunner().invoke(cli, ["inspect", str(pipe)])
    assert isinstance(shown.exception, SourceError)
    packed(tmp_path / "b.tif")
    masked = f'[grid]\nlike = "b.tif"\nmask = "{name}"\n[[layers]]\nname = "b"\npath = "b.tif"\n'
    (tmp_path / "m.toml").write_text(masked)
    with pytest.raises(SourceError, match=rf"grid\.mask.*{name}.* is a pipe, a socket or a device"):
        pipeline.run(load.load(tmp_path / "m.toml", ("engine.kind=local",)))


def test_a_device_and_a_socket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a pipe, a socket or a device"):
        raster.inspect("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.tif"))
        with pytest.raises(SourceError, match="is a pipe, a socket or a device"):
            raster.inspect(str(tmp_path / "s.tif"))


def test_a_pipe_in_a_folder_is_no_raster_of_it(tmp_path: Path) -> None:
    packed(tmp_path / "in.tif")
    (tmp_path / "in").mkdir()
    packed(tmp_path / "in/a.tif")
    os.mkfifo(tmp_path / "in/b.tif")
    assert raster.expand(str(tmp_path / "in")) == [str(tmp_path / "in/a.tif")]
    summary = run(tmp_path, 'name = "a"\npath = "in"')
    assert pq.ParquetDataset(f"{summary.output}/parquet").read().num_rows == 4096
