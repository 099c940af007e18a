"""What is opened, and what never is: hostile files reach no server and no other file, welcome VRTs and sidecars work.

Each case is tried through inspect, plan and run, as a layer, as grid.mask and as grid.like, against a web server on
this machine that notes what it is asked for, and a canary file whose opening the kernel reports.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread

import h5py
import numpy as np
import pyarrow.dataset as ds
import pytest
import rasterio
import rasterio.shutil
import surroundings
from click.testing import CliRunner
from h5py import h5d, h5p, h5s, h5t
from helpers import north_up, write_raster
from rasterio.vrt import WarpedVRT
from waiting import PATIENCE

from geopipe.cli.main import cli
from geopipe.errors import GeopipeError, SourceError
from geopipe.layers import access
from geopipe.layers.access import Access
from geopipe.load import hdf5, raster, vrt
from geopipe.run import draft, pipeline
from geopipe.settings import load

UTM = "EPSG:32612"
T = north_up(500_000, 4_000_000, 10)
GRID = f'crs = "{UTM}"\nresolution = 10\nbounds = [500000, 3999800, 500300, 4000000]'
PIXELS = np.arange(600, dtype="uint8").reshape(20, 30) + np.uint8(1)
SECRET = b"CANARY" * 200


class Canary:
    """A file that nobody may open; the kernel says who does (inotify)."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(SECRET)
        self.path = path
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.fd, str(path).encode(), 0x21) >= 0  # IN_OPEN, IN_ACCESS

    def opened(self) -> bool:
        try:
            return bool(os.read(self.fd, 1 << 16))
        except BlockingIOError:
            return False


@dataclass
class Trap:
    """A folder with a canary beside it, and a web server that nobody may ask."""

    folder: Path
    canary: Canary
    port: int
    requests: Queue[str]

    def url(self, name: str = "a.tif") -> str:
        """An address that was never asked for before: GDAL remembers what it has asked."""
        return f"http://127.0.0.1:{self.port}/{uuid.uuid4().hex}/{name}"

    def hits(self) -> list[str]:
        """What was asked for since the last look; a request of our own is the last of it."""
        last, result = f"/{uuid.uuid4().hex}", []
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}{last}", timeout=PATIENCE)
        while (path := self.requests.get(timeout=PATIENCE)) != last:
            result.append(path)
        return result

    def tiff(self, name: str, **tags: dict[str, str]) -> Path:
        path = write_raster(self.folder / name, PIXELS, UTM, T)
        with rasterio.open(path, "r+") as out:
            for namespace, values in tags.items():
                out.update_tags(ns=namespace, **values)
        return path

    def text(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, Queue[str]]]:
    """A folder that a web server serves, its port, and what it is asked for."""
    folder = tmp_path_factory.mktemp("www")
    script = surroundings.SERVERS / "range_server.py"
    with subprocess.Popen(
        [sys.executable, str(script), str(folder), "told"], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        port, requests = int(running.stdout.readline()), Queue[str]()
        Thread(target=lambda: [requests.put(line.strip()) for line in running.stdout or ()], daemon=True).start()
        yield folder, port, requests
        running.kill()


@pytest.fixture
def trap(tmp_path: Path, server: tuple[Path, int, Queue[str]]) -> Iterator[Trap]:
    (tmp_path / "in").mkdir()
    result = Trap(tmp_path / "in", Canary(tmp_path / "canary.tif"), server[1], server[2])
    result.hits()
    yield result
    os.close(result.canary.fd)


FLAGS = '<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>'
"""What a file has in it that is the mask of the one beside it."""


def simple(source: str, attributes: str = 'relativeToVRT="0"', extra: str = "", band: str = "") -> str:
    """A VRT of one source."""
    return (
        f'<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>{UTM}</SRS>'
        "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
        f'{extra}<VRTRasterBand dataType="Byte" band="1"{band}><SimpleSource>'
        f"<SourceFilename {attributes}>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )


def raw(source: str, extra: str = "") -> str:
    """A VRT that reads a file as bytes."""
    return (
        f'<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>{UTM}</SRS>'
        "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
        f'{extra}<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
        f"<SourceFilename>{source}</SourceFilename><ImageOffset>0</ImageOffset></VRTRasterBand></VRTDataset>"
    )


def wms(url: str) -> str:
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>'
        "<UpperLeftX>500000</UpperLeftX><UpperLeftY>4000000</UpperLeftY><LowerRightX>500300</LowerRightX>"
        "<LowerRightY>3999800</LowerRightY><TileLevel>0</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>"
        f"<YOrigin>top</YOrigin></DataWindow><Projection>{UTM}</Projection><BlockSizeX>256</BlockSizeX>"
        "<BlockSizeY>256</BlockSizeY><BandsCount>1</BandsCount><Cache/></GDAL_WMS>"
    )


def beside(trap: Trap, ends: str, text: str) -> Path:
    path = trap.tiff("a.tif")
    trap.text(f"a.tif{ends}", text)
    return path


def overviews(url: str) -> str:
    return f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{url}</MDI></Metadata></PAMDataset>'


def subdatasets(trap: Trap) -> Path:
    listed = {"SUBDATASET_1_NAME": f'NETCDF:"/vsicurl/{trap.url()}":x', "SUBDATASET_1_DESC": "x"}
    return trap.tiff("a.tif", SUBDATASETS=listed)


def pretender(trap: Trap) -> Path:
    trap.text("inner.tif", raw(str(trap.canary.path)))
    return trap.text("a.vrt", simple("inner.tif", 'relativeToVRT="1"'))


def link(trap: Trap) -> Path:
    (trap.folder / "link.tif").symlink_to(trap.canary.path)
    return trap.text("a.vrt", simple("link.tif", 'relativeToVRT="1"'))


def nested(trap: Trap) -> Path:
    trap.text("inner.vrt", simple(f"/vsicurl/{trap.url()}"))
    return trap.text("a.vrt", simple("inner.vrt", 'relativeToVRT="1"'))


def round_and_round(trap: Trap) -> Path:
    return trap.text("a.vrt", simple("a.vrt", 'relativeToVRT="1"'))


def led_by_its_source(trap: Trap) -> Path:
    """A VRT of half the resolution, for which GDAL would look at the overviews of its source."""
    trap.tiff("inner.tif", OVERVIEWS={"OVERVIEW_FILE": trap.url()})
    ends = '<SrcRect xOff="0" yOff="0" xSize="30" ySize="20"/><DstRect xOff="0" yOff="0" xSize="15" ySize="10"/>'
    text = simple("inner.tif", 'relativeToVRT="1"').replace("</SimpleSource>", f"{ends}</SimpleSource>")
    text = text.replace('"30" rasterYSize="20"', '"15" rasterYSize="10"', 1)
    return trap.text("a.vrt", text.replace("10, 0, 4", "20, 0, 4").replace("-10<", "-20<"))


def code(trap: Trap) -> Path:
    own = trap.tiff("inner.tif")
    text = simple(str(own), band=' subClass="VRTDerivedRasterBand"')
    function = f"\ndef f(a, out, *b):\n    open('{trap.canary.path}').read()\n"
    program = (
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionType>f</PixelFunctionType>"
        f"<PixelFunctionCode><![CDATA[{function}]]></PixelFunctionCode>"
    )
    return trap.text("a.vrt", text.replace("<SimpleSource>", program + "<SimpleSource>"))


def instruction(trap: Trap) -> Path:
    """What one parser takes for a comment and another for an element."""
    hidden = f'<?x ><SourceFilename relativeToVRT="0">/vsicurl/{trap.url()}</SourceFilename>?>'
    own = str(trap.tiff("inner.tif"))
    return trap.text("a.vrt", simple(own).replace("<SourceFilename", hidden + "<SourceFilename"))


def with_overviews(trap: Trap) -> Path:
    trap.text("a.vrt.ovr", simple(trap.url()))
    return trap.text("a.vrt", simple(str(trap.tiff("i.tif"))))


def pipe(trap: Trap) -> Path:
    os.mkfifo(trap.folder / "a.tif")
    return trap.folder / "a.tif"


def ers(trap: Trap) -> Path:
    return trap.text(
        "a.ers",
        "DatasetHeader Begin\n"
        + " # a comment\n" * 1000
        + ' Version = "6.0"\n DataSetType = ERStorage\n DataType = Raster\n'
        f' DataFile = "../{trap.canary.path.name}"\n ByteOrder = LSBFirst\n RasterInfo Begin\n'
        "  CellType = Unsigned8BitInteger\n  NrOfLines = 20\n  NrOfCellsPerLine = 30\n  NrOfBands = 1\n"
        " RasterInfo End\nDatasetHeader End\n",
    )


def kerchunk(trap: Trap) -> Path:
    (trap.folder / "a.zarr/x").mkdir(parents=True)
    array = {"chunks": [20, 30], "compressor": None, "dtype": "|u1", "fill_value": None, "filters": None, "order": "C",
             "shape": [20, 30], "zarr_format": 2}  # fmt: skip
    metadata = {".zgroup": {"zarr_format": 2}, "x/.zarray": array, "x/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
    trap.text("a.zarr/.zmetadata", json.dumps({"metadata": metadata, "record_size": 1000}))
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"path": [str(trap.canary.path)], "offset": [0], "size": [600], "raw": pa.array([None], pa.binary())}
    pq.write_table(pa.table(row), trap.folder / "a.zarr/x/refs.0.parq")
    return trap.folder / "a.zarr"


def netcdf(path: Path, fill: Callable[[h5py.File], h5py.Dataset | None], **options: int) -> Path:
    """A NetCDF-4 file on the pixels of PIXELS, and the dataset in it that `fill` makes."""
    with h5py.File(path, "w", **options) as file:
        for axis, centers in {"y": 3_999_995 - 10.0 * np.arange(20), "x": 500_005 + 10.0 * np.arange(30)}.items():
            file[axis] = centers
            file[axis].make_scale(axis)
            file[axis].attrs["standard_name"], file[axis].attrs["units"] = f"projection_{axis}_coordinate", "m"
        with rasterio.Env():
            file["crs"] = np.int8(0)
            file["crs"].attrs["spatial_ref"] = rasterio.crs.CRS.from_string(UTM).to_wkt()
        filled = fill(file)
        if filled is not None:
            filled.attrs["grid_mapping"] = "crs"
            for n, axis in enumerate("yx"):
                filled.dims[n].attach_scale(file[axis])
    return path


def external(trap: Trap, name: str = "a.nc", place: str = "v", **options: int) -> Path:
    where = [(str(trap.canary.path), 0, 600)]
    return netcdf(
        trap.folder / name, lambda f: f.create_dataset(place, (20, 30), dtype="u1", external=where), **options
    )


def virtual(path: Path, source: str) -> Path:
    layout = h5py.VirtualLayout((20, 30), "u1")
    layout[:] = h5py.VirtualSource(source, "v", (20, 30))
    return netcdf(path, lambda f: f.create_virtual_dataset("v", layout))


def by_pattern(trap: Trap) -> Path:
    """A virtual dataset of as many files as there are, of 10 rows each."""
    (trap.folder / "0.tif").symlink_to(trap.canary.path)

    def fill(file: h5py.File) -> None:
        space = h5s.create_simple((20, 30), (h5s.UNLIMITED, 30))
        space.select_hyperslab((0, 0), (h5s.UNLIMITED, 1), (10, 30), (10, 30))
        layout = h5p.create(h5p.DATASET_CREATE)
        layout.set_virtual(space, b"%b.tif", b"v", h5s.create_simple((10, 30)))
        h5d.create(file.id, b"v", h5t.NATIVE_UINT8, space, layout)

    return netcdf(trap.folder / "a.nc", fill)


def linked(path: Path, target: str) -> Path:
    return netcdf(path, lambda f: f.__setitem__("v", h5py.ExternalLink(target, "/v")))


def zipped(trap: Trap) -> str:
    with zipfile.ZipFile(trap.folder / "a.zip", "w") as archive:
        archive.write(external(trap, "a.h5"), "a.h5")
    return f"HDF5:/vsizip/{trap.folder}/a.zip/a.h5://v"


HOSTILE: dict[str, Callable[[Trap], Path | str]] = {
    "VRT of bytes as .tif": lambda t: t.text("a.tif", raw(str(t.canary.path))),
    "VRT as .tif": lambda t: t.text("a.tif", simple(f"/vsicurl/{t.url()}")),
    "VRT without an ending": lambda t: t.text("a", simple(str(t.canary.path))),
    "VRT as .img": lambda t: t.text("a.img", simple(f"/vsicurl/{t.url()}")),
    ".ovr to a server": lambda t: beside(t, ".ovr", simple(f"/vsicurl/{t.url()}")),
    ".OVR to a server": lambda t: beside(t, ".OVR", simple(f"/vsicurl/{t.url()}")),
    ".ovr to a file": lambda t: beside(t, ".ovr", raw(str(t.canary.path))),
    ".msk to a server": lambda t: beside(t, ".msk", simple(f"/vsicurl/{t.url()}", extra=FLAGS)),
    ".msk to a file": lambda t: beside(t, ".msk", raw(str(t.canary.path), FLAGS)),
    ".aux.xml to a server": lambda t: beside(t, ".aux.xml", overviews(t.url())),
    ".aux.xml by vsicurl": lambda t: beside(t, ".aux.xml", overviews(f"/vsicurl/{t.url()}")),
    ".aux.xml to a file": lambda t: beside(t, ".aux.xml", overviews(str(t.canary.path))),
    "tag OVERVIEW_FILE": lambda t: t.tiff("a.tif", OVERVIEWS={"OVERVIEW_FILE": t.url()}),
    "tag OVERVIEW_FILE by vsicurl": lambda t: t.tiff("a.tif", OVERVIEWS={"OVERVIEW_FILE": f"/vsicurl/{t.url()}"}),
    "tag OVERVIEW_FILE to a file": lambda t: t.tiff("a.tif", OVERVIEWS={"OVERVIEW_FILE": str(t.canary.path)}),
    "tag of subdatasets": subdatasets,
    "WMS as .tif": lambda t: t.text("a.tif", wms(t.url())),
    "WMS as .xml": lambda t: t.text("a.xml", wms(t.url())),
    "WMS without an ending": lambda t: t.text("a", wms(t.url())),
    ".vrt of bytes": lambda t: t.text("a.vrt", raw(str(t.canary.path))),
    ".vrt to a server": lambda t: t.text("a.vrt", simple(f"/vsicurl/{t.url()}")),
    ".vrt to a server without vsicurl": lambda t: t.text("a.vrt", simple(t.url())),
    ".vrt with options of curl": lambda t: t.text("a.vrt", simple(f"/vsicurl?url={t.url()}&amp;header.a=b")),
    ".vrt upward": lambda t: t.text("a.vrt", simple("../canary.tif", 'relativeToVRT="1"')),
    ".vrt to an absolute path": lambda t: t.text("a.vrt", simple(str(t.canary.path))),
    ".vrt to a link": link,
    ".vrt in a .vrt": nested,
    ".vrt in itself": round_and_round,
    ".vrt in a SourceFilename": lambda t: t.text("a.vrt", simple(raw(str(t.canary.path)).replace("<", "&lt;"))),
    ".vrt to a VRT named .tif": pretender,
    ".vrt to a file with OVERVIEW_FILE": led_by_its_source,
    ".vrt to a page": lambda t: t.text("a.vrt", simple(f"GTIFF_DIR:1:/vsicurl/{t.url()}")),
    ".vrt to an archive": lambda t: t.text("a.vrt", simple(f"/vsizip//vsicurl/{t.url('a.zip')}/a.tif")),
    ".vrt with code": code,
    ".vrt with an entity": lambda t: t.text(
        "a.vrt", f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{t.canary.path}">]>' + simple("&e;")
    ),
    ".vrt with an instruction": instruction,
    ".vrt with its CRS at an address": lambda t: t.text("a.vrt", simple(str(t.tiff("i.tif"))).replace(UTM, t.url())),
    ".vrt with small letters": lambda t: t.text(
        "a.vrt", simple(f"/vsicurl/{t.url()}").replace("SourceFilename", "sourcefilename")
    ),
    ".vrt with overviews of its own": lambda t: t.text(
        "a.vrt", simple(str(t.tiff("i.tif")), extra=overviews(t.url())[12:-13])
    ),
    ".vrt with a .ovr": with_overviews,
    ".ers to a file": ers,
    "Zarr of references": kerchunk,
    "HDF5 with external storage": lambda t: external(t, "a.h5"),
    "NetCDF with external storage": external,
    "NetCDF with external storage in a group": lambda t: external(t, place="g/h/v"),
    "NetCDF with external storage, by variable": lambda t: f"NETCDF:{external(t)}:v",
    "NetCDF with external storage, by file://": lambda t: f"file://{external(t)}",
    "HDF5 with external storage in an archive": zipped,
    "NetCDF with an external link": lambda t: linked(t.folder / "a.nc", str(t.canary.path)),
    "NetCDF with an external link upward": lambda t: linked(t.folder / "a.nc", "../canary.tif"),
    "NetCDF with an external link to an address": lambda t: linked(t.folder / "a.nc", f"/vsicurl/{t.url()}"),
    "NetCDF with a virtual dataset": lambda t: virtual(t.folder / "a.nc", str(t.canary.path)),
    "NetCDF with a virtual dataset by a pattern": lambda t: by_pattern(t),
    "NetCDF with a virtual dataset of external storage": lambda t: virtual(t.folder / "a.nc", external(t, "b.nc").name),
    ".vrt to a NetCDF with external storage": lambda t: t.text("a.vrt", simple(external(t).name, 'relativeToVRT="1"')),
    "pipe": pipe,
}  # fmt: skip


def tried(trap: Trap, path: Path | str, role: str, **keys: str) -> list[str]:
    """The errors of inspect, plan and run of a file in a role; none where they did what they should."""
    errors = []
    shown = CliRunner().invoke(cli, ["inspect", "--json", str(path)])
    assert isinstance(shown.exception, GeopipeError | SystemExit | None), shown.exception
    assert b"CANARY" not in shown.stdout_bytes
    good = trap.folder / "good.tif"
    write_raster(good, PIXELS, UTM, T)
    file = trap.folder / "s.toml"
    more = "".join(f"{key} = {value}\n" for key, value in keys.items())
    grid = (
        GRID
        if role == "layer"
        else f'{GRID}\nmask = "{path}"\n{more}'
        if role == "mask"
        else f'like = "{path}"\n{more}'
    )
    layer = f'path = "{path}"\n{more}' if role == "layer" else f'path = "{good}"\n'
    file.write_text(f'[grid]\n{grid}\n[merge]\nhow = "grid"\n[[layers]]\nname = "a"\n{layer}')
    for step in (draft.draft, lambda s: pipeline.run(s, overwrite=True)):
        try:
            step(load.load(file, ("engine.kind=local",)))
        except GeopipeError as error:
            errors.append(str(error))
    if not errors:
        result = ds.dataset(trap.folder / "output/parquet").to_table()
        assert "CANARY" not in str(result["a"].to_pylist())
    return errors


@pytest.mark.parametrize("role", ["layer", "mask", "like"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_reaches_no_server_and_no_other_file(trap: Trap, case: str, role: str) -> None:
    path = HOSTILE[case](trap)
    trap.hits(), trap.canary.opened()
    errors = tried(trap, path, role)
    assert trap.hits() == []
    assert not trap.canary.opened()
    assert all("hint" in error for error in errors)
    if "tag" in case or ".aux.xml" in case:
        assert errors == [] or role == "mask", "what needs no other file is read without it"
    elif "of its own" not in case and case != ".vrt with a .ovr" and "with OVERVIEW_FILE" not in case:
        assert errors, "nothing that pretends is opened"


def test_the_trap_shuts(trap: Trap) -> None:
    """GDAL by itself does go where these files lead."""
    for case in ("VRT as .tif", ".msk to a server", "tag OVERVIEW_FILE", "WMS as .tif"):
        with pytest.raises((rasterio.errors.RasterioError, StopIteration)):  # noqa: PT012
            with rasterio.open(HOSTILE[case](trap)) as opened:
                opened.overviews(1), opened.read(), opened.read_masks()
            raise StopIteration
        assert trap.hits(), case
        shutil.rmtree(trap.folder)
        trap.folder.mkdir()
    with pytest.raises(rasterio.errors.RasterioError), rasterio.open(HOSTILE["VRT without an ending"](trap)) as opened:
        opened.read()
    assert trap.canary.opened()
    with rasterio.open(f'NETCDF:"{external(trap)}":v') as opened:
        assert opened.read(1).tobytes().startswith(b"CANARY")
    for path in (linked(trap.folder / "l.nc", "../canary.tif"), virtual(trap.folder / "v.nc", str(trap.canary.path))):
        trap.canary.opened()
        with contextlib.suppress(rasterio.errors.RasterioError), rasterio.open(f'NETCDF:"{path}":v') as opened:
            opened.read()
        assert trap.canary.opened()


# ---------------------------------------------------------------- STAC items


def item(trap: Trap, href: str) -> Path:
    asset = {"href": href, "roles": ["data"], "type": "image/tiff"}
    feature = {"type": "Feature", "id": "one", "properties": {}, "assets": {"a": asset}}
    return trap.text("item.json", json.dumps(feature))


HREFS: dict[str, Callable[[Trap], str]] = {
    "upward": lambda t: "../canary.tif",
    "upward from a folder": lambda t: "x/../../canary.tif",
    "absolute": lambda t: str(t.canary.path),
    "file://": lambda t: f"file://{t.canary.path}",
    "file:": lambda t: f"file:{t.canary.path}",
    "http": lambda t: t.url(),
    "HTTP": lambda t: t.url().replace("http", "HTTP"),
    "vsicurl": lambda t: f"/vsicurl/{t.url()}",
    "vsicurl with options": lambda t: f"/vsicurl?url={t.url()}",
    "zip": lambda t: f"/vsizip//vsicurl/{t.url('a.zip')}/a.tif",
    "zip+http": lambda t: f"zip+{t.url('a.zip')}!/a.tif",
    "page": lambda t: f"GTIFF_DIR:1:/vsicurl/{t.url()}",
    "page of a file": lambda t: f"GTIFF_DIR:1:{t.canary.path}",
    "variable": lambda t: f'NETCDF:"/vsicurl/{t.url("a.nc")}":v',
    "inline VRT": lambda t: raw(str(t.canary.path)),
    "inline VRT behind a space": lambda t: " " + simple(f"/vsicurl/{t.url()}"),
    "vrt://": lambda t: f"vrt://{t.canary.path}?bands=1",
    "WMS:": lambda t: f"WMS:{t.url()}",
    "VRT below that leads elsewhere": lambda t: t.text("x.vrt", simple(f"/vsicurl/{t.url()}")).name,
    "link": lambda t: ((t.folder / "l.tif").symlink_to(t.canary.path), "l.tif")[1],
    "control character": lambda t: "a\0.tif",
}  # fmt: skip


@pytest.mark.parametrize("case", HREFS)
def test_an_address_in_a_stac_item_stays_below_its_folder(trap: Trap, case: str) -> None:
    path = item(trap, HREFS[case](trap))
    trap.hits(), trap.canary.opened()
    errors = tried(trap, path, "layer")
    assert trap.hits() == []
    assert not trap.canary.opened()
    assert len(errors) == 2


def test_a_stac_item_may_lead_where_the_layer_allows(trap: Trap, server: tuple[Path, int, Queue[str]]) -> None:
    write_raster(server[0] / "far.tif", PIXELS, UTM, T)
    host = f"http://127.0.0.1:{server[1]}/"
    refused = tried(trap, item(trap, f"{host}far.tif"), "layer")
    assert f'allow it: allow = ["{host}"] in the layer a' in refused[0]
    assert tried(trap, item(trap, f"{host}far.tif"), "layer", allow=f'["{host}"]') == []
    assert tried(trap, item(trap, f"{host}far.tif"), "layer", allow='"http://"') == [], "a scheme"
    assert tried(trap, item(trap, f"{host}far.tif"), "layer", allow=f'"{host[:-2]}"'), "hosts are whole"
    assert tried(trap, item(trap, f"{host}a/../far.tif"), "layer", allow=f'"{host}a/"'), "nothing goes upward"
    other = write_raster(trap.folder.parent / "other.tif", PIXELS, UTM, T)
    assert f'allow = ["{other.parent}"]' in tried(trap, item(trap, "../other.tif"), "layer")[0]
    assert tried(trap, item(trap, "../other.tif"), "layer", allow='[".."]') == []


# ---------------------------------------------------------------- vector files as masks

SQUARE = [
    [[500_000, 3_999_800], [500_300, 3_999_800], [500_300, 4_000_000], [500_000, 4_000_000], [500_000, 3_999_800]]
]


def geojson(crs: str = "") -> str:
    geometry = json.dumps({"type": "Polygon", "coordinates": SQUARE})
    feature = f'{{"type": "Feature", "properties": {{"crs": "x < y"}}, "geometry": {geometry}}}'
    return f'{{"type": "FeatureCollection", {crs} "features": [{feature}]}}'


def ogr_vrt(source: str) -> str:
    layer = f"<SrcDataSource>{source}</SrcDataSource><SrcLayer>x</SrcLayer>"
    return f'<OGRVRTDataSource><OGRVRTLayer name="x">{layer}</OGRVRTLayer></OGRVRTDataSource>'


def streamed(source: str) -> str:
    return json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {source}"})


MASKS: dict[str, Callable[[Trap], Path]] = {
    "OGR VRT as .geojson": lambda t: t.text("m.geojson", ogr_vrt(f"/vsicurl/{t.url()}")),
    "OGR VRT as .geojson to a file": lambda t: t.text("m.geojson", ogr_vrt(f"CSV:{t.canary.path}")),
    "OGR VRT as .shp": lambda t: t.text("m.shp", ogr_vrt(f"/vsicurl/{t.url()}")),
    "OGR VRT as .kml": lambda t: t.text("m.kml", ogr_vrt(f"/vsicurl/{t.url()}")),
    "OGR VRT as .vrt": lambda t: t.text("m.vrt", ogr_vrt(f"/vsicurl/{t.url()}")),
    "OGR VRT in JSON": lambda t: t.text("m.geojson", json.dumps({"a": ogr_vrt(f"/vsicurl/{t.url()}")})),
    "pipeline as .geojson": lambda t: t.text("m.geojson", streamed(f"/vsicurl/{t.url()}")),
    "pipeline as .gdalg.json": lambda t: t.text("m.gdalg.json", streamed(str(t.canary.path))),
    "WFS as .geojson": lambda t: t.text("m.geojson", f"<OGRWFSDataSource><URL>{t.url()}</URL></OGRWFSDataSource>"),
    "CRS at an address": lambda t: t.text(
        "m.geojson", geojson(f'"crs": {{"type": "link", "properties": {{"href": "{t.url()}", "type": "proj4"}}}},')
    ),
    "CRS at an address, escaped": lambda t: t.text(
        "m.geojson", geojson(f'"\\u0063rs": {{"type": "link", "properties": {{"href": "{t.url()}", "type": "a"}}}},')
    ),
    "CRS behind a comment": lambda t: t.text(
        "m.geojson", geojson(f'"CRS" /**/: {{"type": "link", "properties": {{"href": "{t.url()}", "type": "a"}}}},')
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MASKS)
def test_a_hostile_vector_file_reaches_no_server_and_no_other_file(trap: Trap, case: str) -> None:
    path = MASKS[case](trap)
    trap.hits(), trap.canary.opened()
    errors = tried(trap, path, "mask")
    assert trap.hits() == []
    assert not trap.canary.opened()
    assert len(errors) == 2


def test_plain_geojson_with_a_named_crs_is_a_mask(trap: Trap) -> None:
    name = '"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32612"}},'
    assert tried(trap, trap.text("m.geojson", geojson(name)), "mask") == []
    assert tried(trap, trap.text("m.geojson", "\n " + geojson(name)), "mask") == []


# ---------------------------------------------------------------- what is welcome


def values(trap: Trap, path: Path | str, **keys: str) -> np.ndarray:
    """The column of a run of one layer on GRID."""
    assert tried(trap, path, "layer", **keys) == []
    result = ds.dataset(trap.folder / "output/parquet").to_table().sort_by([("row", "ascending"), ("col", "ascending")])
    return result["a"].to_numpy().reshape(20, 30)


def mosaic(sources: list[str], attributes: str = 'relativeToVRT="1"') -> str:
    """What gdalbuildvrt makes of a left and a right half."""
    parts = "".join(
        f'<SimpleSource><SourceFilename {attributes} shared="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
        '<SourceProperties RasterXSize="15" RasterYSize="20" DataType="Byte" BlockXSize="15" BlockYSize="20" />'
        f'<SrcRect xOff="0" yOff="0" xSize="15" ySize="20" /><DstRect xOff="{15 * n}" yOff="0" xSize="15" ySize="20" />'
        "</SimpleSource>"
        for n, source in enumerate(sources)
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- tiles -->\n<VRTDataset rasterXSize="30" rasterYSize="20">'
        f'<SRS dataAxisToSRSAxisMapping="1,2">{UTM}</SRS><GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>'
        f'<VRTRasterBand dataType="Byte" band="1"><ColorInterp>Gray</ColorInterp>{parts}</VRTRasterBand>'
        '<OverviewList resampling="nearest">2 4</OverviewList></VRTDataset>'
    )


def halves(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    write_raster(folder / "l.tif", PIXELS[:, :15], UTM, T)
    write_raster(folder / "r.tif", PIXELS[:, 15:], UTM, north_up(500_150, 4_000_000, 10))
    return ["l.tif", "r.tif"]


def test_a_mosaic_by_gdalbuildvrt_stays_one_line_of_settings(trap: Trap) -> None:
    names = [f"tiles/{name}" for name in halves(trap.folder / "tiles")]
    assert np.array_equal(values(trap, trap.text("m.vrt", mosaic(names))), PIXELS)
    trap.text("outer.vrt", simple("m.vrt", 'relativeToVRT="1"'))
    assert np.array_equal(values(trap, trap.folder / "outer.vrt"), PIXELS), "a VRT in a VRT"
    for role in ("mask", "like"):
        assert tried(trap, trap.folder / "m.vrt", role) == []


def test_a_vrt_leads_to_folders_that_are_allowed(trap: Trap) -> None:
    names = [str(trap.folder.parent / "tiles" / name) for name in halves(trap.folder.parent / "tiles")]
    path = trap.text("m.vrt", mosaic(names, 'relativeToVRT="0"'))
    hint = f'allow = ["{trap.folder.parent}/tiles"]'
    assert f"{hint} in the layer a" in tried(trap, path, "layer")[0]
    assert f"grid.{hint}" in tried(trap, path, "like")[0]
    assert np.array_equal(values(trap, path, allow='["../tiles"]'), PIXELS)
    for role in ("mask", "like"):
        assert tried(trap, path, role, allow='["../tiles"]') == []
    assert CliRunner().invoke(cli, ["inspect", str(path)]).exit_code
    shown = CliRunner().invoke(cli, ["inspect", str(path), "--allow", f"{trap.folder.parent}/tiles"])
    assert shown.exit_code == 0, shown.output


def test_a_vrt_leads_to_servers_that_are_allowed(trap: Trap, server: tuple[Path, int, Queue[str]]) -> None:
    names = halves(server[0] / "tiles")
    host = f"http://127.0.0.1:{server[1]}/"
    path = trap.text("m.vrt", mosaic([f"/vsicurl/{host}tiles/{name}" for name in names], 'relativeToVRT="0"'))
    assert f'allow = ["{host}"]' in tried(trap, path, "layer")[0]
    assert trap.hits() == []
    assert np.array_equal(values(trap, path, allow=f'["{host}tiles"]'), PIXELS)
    assert {Path(hit).name for hit in trap.hits()} == {"l.tif", "r.tif"}, "no sidecar is looked for on a server"
    file = trap.folder / "s.toml"
    plan = draft.draft(load.load(file))
    assert plan.describe()["layers"][0]["reaches"] == [str(trap.folder), host[:-1]]
    shown = CliRunner().invoke(cli, ["plan", str(file)]).output
    assert "reaches" in shown
    assert host[:-1] in shown.replace("\n", "").replace(" ", "")


def test_allowing_more_is_no_other_plan(trap: Trap) -> None:
    path = trap.text("m.vrt", mosaic(halves(trap.folder)))
    hashes = set()
    for allow in ("[]", '["https://host/"]'):
        assert tried(trap, path, "layer", allow=allow) == []
        hashes.add(draft.draft(load.load(trap.folder / "s.toml")).hash)
    assert len(hashes) == 1


def test_a_changed_tile_of_a_vrt_is_another_plan(trap: Trap) -> None:
    path = trap.text("m.vrt", mosaic(halves(trap.folder)))
    assert tried(trap, path, "layer") == []
    before = draft.draft(load.load(trap.folder / "s.toml")).hash
    os.utime(trap.folder / "l.tif", ns=(1, 1))
    assert draft.draft(load.load(trap.folder / "s.toml")).hash != before


def test_plain_masks_and_overviews_beside_a_file_are_read_as_ever(trap: Trap) -> None:
    path = trap.tiff("a.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as out:
        mask = np.ones(PIXELS.shape, bool)
        mask[0, 0] = False
        out.write_mask(mask)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as out:
        out.build_overviews([2])
    trap.text(
        "a.tif.aux.xml", '<PAMDataset><PAMRasterBand band="1"><UnitType>m</UnitType></PAMRasterBand></PAMDataset>'
    )
    assert {"a.tif.msk", "a.tif.ovr"} <= {p.name for p in trap.folder.iterdir()}
    header = raster.inspect(str(path))
    assert (header.overviews, header.bands[0].unit) == ((2,), "m")
    result = values(trap, path)
    assert np.isnan(result[0, 0])
    assert np.array_equal(result.ravel()[1:], PIXELS.ravel()[1:])
    vrt_of_it = trap.text("v.vrt", simple("a.tif", 'relativeToVRT="1"'))
    assert np.array_equal(values(trap, vrt_of_it), PIXELS)


def test_a_warped_vrt_reads_its_source(trap: Trap) -> None:
    with rasterio.open(trap.tiff("a.tif")) as source, WarpedVRT(source, crs="EPSG:4326") as warped:
        rasterio.shutil.copy(warped, trap.folder / "w.vrt", driver="VRT")
    with rasterio.open(trap.folder / "w.vrt") as plain:
        expected = plain.read(1)
    with raster.environment(), raster.open_raster(str(trap.folder / "w.vrt")) as opened:
        assert np.array_equal(opened.read(1), expected)


def test_a_service_on_the_web_is_asked_where_the_layer_says_so(trap: Trap) -> None:
    path = trap.text("a.xml", wms(f"http://127.0.0.1:{trap.port}/tiles"))
    assert 'driver = "WMS" in the layer a' in tried(trap, path, "layer")[0]
    assert trap.hits() == []
    errors = tried(trap, path, "layer", driver='"WMS"')
    assert any(hit.startswith("/tiles/0/0/0.png") for hit in trap.hits()), errors
    header = raster.inspect(str(path), access=Access(driver="WMS"))
    assert header.reaches == (f"http://127.0.0.1:{trap.port}",)


def test_a_driver_opens_what_no_ending_tells(trap: Trap) -> None:
    path = trap.tiff("a.tif").rename(trap.folder / "a.png")
    assert 'driver = "GTiff" in the layer a' in tried(trap, path, "layer")[0]
    assert np.array_equal(values(trap, path, driver='"GTiff"'), PIXELS)


@pytest.mark.parametrize("driver", ["VRT", "vrt"])
def test_a_vrt_under_another_ending_is_checked_as_well(trap: Trap, driver: str) -> None:
    errors = tried(trap, trap.text("a.txt", simple(f"/vsicurl/{trap.url()}")), "layer", driver=f'"{driver}"')
    assert trap.hits() == []
    assert "which is not below its folder" in errors[0]
    own = simple(str(trap.tiff("b.tif")))
    assert np.array_equal(values(trap, trap.text("a.txt", own), driver=f'"{driver}"'), PIXELS)


def test_a_page_of_a_tiff_is_a_part_of_its_file(trap: Trap) -> None:
    path = write_raster(trap.folder / "b.tif", np.zeros_like(PIXELS), UTM, T)
    rasterio.shutil.copy(trap.tiff("a.tif"), path, driver="GTiff", APPEND_SUBDATASET="YES")
    assert np.array_equal(values(trap, "GTIFF_DIR:2:b.tif"), PIXELS)
    assert raster.inspect(str(path)).subdatasets == (f"GTIFF_DIR:1:{path}", f"GTIFF_DIR:2:{path}")
    assert np.array_equal(values(trap, path, variable='"2"'), PIXELS)


# ---------------------------------------------------------------- HDF5


def test_a_virtual_dataset_leads_below_its_folder_or_where_it_is_allowed(trap: Trap) -> None:
    source = netcdf(trap.folder.parent / "source.nc", lambda f: f.create_dataset("v", data=PIXELS))
    (trap.folder / "parts").mkdir()
    copy = shutil.copy(source, trap.folder / "parts")
    for name in ("v.nc", "v.h5"):
        assert np.array_equal(values(trap, virtual(trap.folder / name, "parts/source.nc"), variable='"v"'), PIXELS)
    plan = draft.draft(load.load(trap.folder / "s.toml"))
    assert plan.describe()["layers"][0]["reaches"] == [str(trap.folder), str(trap.folder / "parts")]
    os.utime(copy, ns=(1, 1))
    assert draft.draft(load.load(trap.folder / "s.toml")).hash != plan.hash, "a change of what it reads"
    for name in ("v.nc", "v.h5"):
        path = virtual(trap.folder / name, str(source))
        error = tried(trap, path, "layer", variable='"v"')[0]
        assert f"{path}: the dataset /v refers to {source}, which is not below its folder" in error
        assert f'allow = ["{source.parent}"] in the layer a' in error
        assert np.array_equal(values(trap, path, variable='"v"', allow='[".."]'), PIXELS)


def test_external_storage_and_links_of_hdf5_are_refused_with_dataset_and_file(trap: Trap) -> None:
    beside = netcdf(trap.folder / "b.nc", lambda f: f.create_dataset("v", data=PIXELS))
    for path, text in (
        (external(trap, place="g/v"), f"the dataset /g/v has its values in {trap.canary.path}"),
        (linked(trap.folder / "l.nc", beside.name), f"the link /v leads to {beside.name}"),
    ):
        error = tried(trap, path, "layer", allow=f'["{trap.folder.parent}"]')[0]
        assert f"layer a: {path}: {text}" in error
        assert "h5repack" in error
    block = external(trap, "u.nc", userblock_size=4096)
    assert "has its values in" in tried(trap, block, "layer", driver='"netCDF"')[0], "behind a user block"
    assert not trap.canary.opened()


def test_what_is_in_the_hdf5_file_itself_is_read(trap: Trap) -> None:
    def fill(file: h5py.File) -> h5py.Dataset:
        file["soft"] = h5py.SoftLink("/v")
        layout = h5py.VirtualLayout((20, 30), "u1")
        layout[:] = h5py.VirtualSource(file.create_dataset("own", data=PIXELS))
        return file.create_virtual_dataset("v", layout)

    path = netcdf(trap.folder / "a.nc", fill)
    assert np.array_equal(values(trap, f"NETCDF:{path}:v"), PIXELS)
    with h5py.File(path, "a") as file:
        file["g/up"], file["type"], file["dangling"] = file["/"], np.dtype("u1"), h5py.SoftLink("/g/nothing")
    assert hdf5.referred(str(path), access.NOTHING) == (), "groups in a circle"


def test_a_damaged_or_endless_hdf5_file_is_refused(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    path = netcdf(trap.folder / "a.nc", lambda f: f.create_dataset("v", data=PIXELS))
    monkeypatch.setattr(hdf5, "OBJECTS", 3)
    assert "it has more than 3 groups and datasets" in tried(trap, path, "layer")[0]
    monkeypatch.undo()
    os.truncate(path, 3000)
    assert f"{path} is no raster that GDAL can open: " in tried(trap, path, "layer")[0]


@pytest.mark.parametrize("order", ["rhrh", "hrhr"])
def test_h5py_and_rasterio_have_each_their_own_hdf5_in_one_process(trap: Trap, order: str) -> None:
    path = netcdf(trap.folder / "a.nc", lambda f: f.create_dataset("v", data=PIXELS))
    read = {
        "r": f"import rasterio\nfor n in ('NETCDF:{path}:v', 'HDF5:{path}://v'):\n"
        "    with rasterio.open(n) as f: assert f.read(1)[0, 5] == 6",
        "h": f"import h5py\nwith h5py.File('{path}', locking=False) as f: assert f['v'][0, 5] == 6",
    }
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(read[c] for c in order)], check=True)


# ---------------------------------------------------------------- bombs


def test_a_block_beyond_a_gibibyte_is_refused_with_its_size(trap: Trap) -> None:
    size = 2**15 + 16
    profile = {
        "driver": "GTiff",
        "height": size,
        "width": size,
        "count": 1,
        "dtype": "uint8",
        "crs": UTM,
        "transform": T,
    }
    blocks = {"tiled": True, "blockxsize": size, "blockysize": size, "sparse_ok": True, "compress": "deflate"}
    with rasterio.open(trap.folder / "a.tif", "w", **profile, **blocks):
        pass
    assert (trap.folder / "a.tif").stat().st_size < 10_000
    message = "blocks of 32,784 x 32,784 pixels; to decode one takes 1,025 MB, more than 1,024 MB"
    for role in ("layer", "mask"):
        assert all(message in error for error in tried(trap, trap.folder / "a.tif", role))


def test_the_block_of_a_file_is_part_of_what_a_run_needs(trap: Trap) -> None:
    needs = []
    for edge in (256, 16_384):
        profile = {"driver": "GTiff", "height": 16_384, "width": 16_384, "count": 1, "dtype": "uint8", "crs": UTM}
        blocks = {"tiled": True, "blockxsize": edge, "blockysize": edge, "sparse_ok": True, "compress": "deflate"}
        path = trap.folder / f"{edge}.tif"
        with rasterio.open(path, "w", transform=T, **profile, **blocks):
            pass
        file = trap.text("s.toml", f'[grid]\n{GRID}\n[[layers]]\nname = "a"\npath = "{path}"\n')
        estimate = draft.draft(load.load(file)).estimate
        needs.append(estimate.task_bytes - estimate.cache_bytes)
    assert needs[1] - needs[0] == 16_384**2 - 256**2


# ---------------------------------------------------------------- rules, as functions


@pytest.mark.parametrize(
    ("name", "head", "drivers"),
    [
        ("/a/b.tif", b"II*\0", ("GTiff",)),
        ("/a/b.TIF", b"MM\0+", ("GTiff",)),
        ("/a/b.tif", b"\x89PNG\r\n\x1a\n", ()),
        ("/a/b.nc", b"\x89HDF\r\n\x1a\n", ("netCDF",)),
        ("/a/b.h5", b"\x89HDF\r\n\x1a\n", ("HDF5", "netCDF")),
        ("/a/b", b"II*\0", ("GTiff", "GRIB", "WEBP", "ENVI", "EHdr")),
        ("https://h/a.tif?x=.nc", None, ("GTiff",)),
        ("/vsizip//a/b.zip/c.jp2", None, ("JP2OpenJPEG",)),
    ],
)
def test_drivers_by_name_and_first_bytes(name: str, head: bytes | None, drivers: tuple[str, ...]) -> None:
    assert access.drivers(name, head) == drivers


@pytest.mark.parametrize(
    ("reference", "allow", "address"),
    [
        ("b.tif", "", "/data/in/b.tif"),
        ("x/../b.tif", "", "/data/in/b.tif"),
        ("/data/in/b.tif", "", "/data/in/b.tif"),
        ("../b.tif", "", None),
        ("../b.tif", "/data", "/data/b.tif"),
        ("/data/tiles2/b.tif", "/data/tiles", None),
        ('NETCDF:"b.nc":v', "", 'NETCDF:"/data/in/b.nc":v'),
        ('NETCDF:"/etc/b.nc":v', "", None),
        ("https://h/b.tif", "https://h", "https://h/b.tif"),
        ("/vsicurl/https://h/b.tif", "https://h/", "https://h/b.tif"),
        ("https://h.evil/b.tif", "https://h", None),
        ("https://h@evil/b.tif", "https://h", None),
        ("https://h/a/%2e%2e/b.tif", "https://h/a", None),
        ("https://h/a\\..\\b.tif", "https://h/a", None),
        ("http://h/b.tif", "https://h", None),
        ("s3://bucket/b.tif", "s3://bucket/", "s3://bucket/b.tif"),
        ("/vsis3/bucket2/b.tif", "s3://bucket", None),
        ("/vsizip//data/a.zip/b.tif", "/vsizip//data", "/vsizip//data/a.zip/b.tif"),
        ("/vsizip//data/../etc/a.zip/b.tif", "/vsizip//data", None),
        ("/vsizip//vsicurl/http://h/a.zip/b.tif", "/vsizip/", None),
        ("/vsimem/b.tif", "/vsimem", None),
        ("MEM:::DATAPOINTER=1", "", None),
        ("", "", None),
    ],
)
def test_where_a_reference_may_lead(reference: str, allow: str, address: str | None) -> None:
    what = Access.of_layer("a", (allow,) if allow else ()).within("x.vrt ")
    if address is None:
        with pytest.raises(SourceError, match=r"^layer a: x\.vrt refers to"):
            access.resolve(reference, "/data/in", what)
    else:
        assert access.resolve(reference, "/data/in", what) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<VRTDataset", "it is no XML"),
        ("<GDAL_WMS/>", "its root is <GDAL_WMS>"),
        ("<!DOCTYPE a><VRTDataset/>", "a document type"),
        ("<VRTDataset><?a b?></VRTDataset>", "a processing instruction"),
        ('<VRTDataset subClass="VRTProcessedDataset"/>', "VRTProcessedDataset, which reads files as raw bytes or runs"),
        ("<VRTDataset><Group/></VRTDataset>", "it has <Group>"),
        ('<VRTDataset><VRTRasterBand subClass="VRTRawRasterBand"/></VRTDataset>', "a VRTRawRasterBand"),
        ("<VRTDataset><PixelFunctionType>expression</PixelFunctionType></VRTDataset>", "it has code"),
        ("<VRTDataset><GDALWarpOptions><RPCTransformer/></GDALWarpOptions></VRTDataset>", "it has <RPCTransformer>"),
    ],
)
def test_what_may_not_be_in_a_vrt_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vrt.rewrite(text, lambda reference, relative: reference)


def test_a_function_of_gdal_itself_is_no_code(trap: Trap) -> None:
    text = simple(str(trap.tiff("a.tif")), band=' subClass="VRTDerivedRasterBand"')
    path = trap.text(
        "a.vrt", text.replace("<SimpleSource>", "<PixelFunctionType>inv</PixelFunctionType><SimpleSource>")
    )
    text = path.read_text().replace('"Byte"', '"Float32"')
    assert np.allclose(values(trap, trap.text("a.vrt", text)), 1 / PIXELS.astype("float32"))
