"""What is opened, and what never is: hostile files reach no server and no other file, welcome VRTs and sidecars work.

Each case is tried through inspect, plan and run, as a layer, as grid.mask and as grid.like, against a web server on
this machine that notes what it is asked for, and a canary file whose opening the kernel reports.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import numpy as np
import pyarrow.dataset as ds
import pytest
import rasterio
import rasterio.shutil
from click.testing import CliRunner
from helpers import north_up, write_raster

from geopipe import drafting, pipeline, settings
from geopipe.cli import cli
from geopipe.errors import GeopipeError

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
    asked: Queue[str]

    def url(self, name: str = "a.tif") -> str:
        """An address that was never asked for before: GDAL remembers what it has asked."""
        return f"http://127.0.0.1:{self.port}/{uuid.uuid4().hex}/{name}"

    def hits(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.asked.get(timeout=0.05))
            except Empty:
                return found

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
    script = Path(__file__).with_name("range_server.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(folder), "told"], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        port, asked = int(running.stdout.readline()), Queue[str]()
        Thread(target=lambda: [asked.put(line.strip()) for line in running.stdout or ()], daemon=True).start()
        yield folder, port, asked
        running.kill()


@pytest.fixture
def trap(tmp_path: Path, server: tuple[Path, int, Queue[str]]) -> Iterator[Trap]:
    (tmp_path / "in").mkdir()
    made = Trap(tmp_path / "in", Canary(tmp_path / "canary.tif"), server[1], server[2])
    made.hits()
    yield made
    os.close(made.canary.fd)


def simple(source: str, attributes: str = 'relativeToVRT="0"', extra: str = "", band: str = "") -> str:
    """A VRT of one source."""
    return (
        f'<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>{UTM}</SRS>'
        "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
        f'{extra}<VRTRasterBand dataType="Byte" band="1"{band}><SimpleSource>'
        f"<SourceFilename {attributes}>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )


def raw(source: str) -> str:
    """A VRT that reads a file as bytes."""
    return (
        f'<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>{UTM}</SRS>'
        "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
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
        'DatasetHeader Begin\n Version = "6.0"\n DataSetType = ERStorage\n DataType = Raster\n'
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


HOSTILE: dict[str, Callable[[Trap], Path]] = {
    "VRT of bytes as .tif": lambda t: t.text("a.tif", raw(str(t.canary.path))),
    "VRT as .tif": lambda t: t.text("a.tif", simple(f"/vsicurl/{t.url()}")),
    "VRT without an ending": lambda t: t.text("a", simple(str(t.canary.path))),
    "VRT as .img": lambda t: t.text("a.img", simple(f"/vsicurl/{t.url()}")),
    ".ovr to a server": lambda t: beside(t, ".ovr", simple(f"/vsicurl/{t.url()}")),
    ".OVR to a server": lambda t: beside(t, ".OVR", simple(f"/vsicurl/{t.url()}")),
    ".ovr to a file": lambda t: beside(t, ".ovr", raw(str(t.canary.path))),
    ".msk to a server": lambda t: beside(t, ".msk", simple(f"/vsicurl/{t.url()}")),
    ".msk to a file": lambda t: beside(t, ".msk", raw(str(t.canary.path))),
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
    for step in (drafting.draft, lambda s: pipeline.run(s, local=True, overwrite=True)):
        try:
            step(settings.load(file))
        except GeopipeError as error:
            errors.append(str(error))
    if not errors:
        found = ds.dataset(trap.folder / "output/parquet").to_table()
        assert "CANARY" not in str(found["a"].to_pylist())
    return errors


@pytest.mark.parametrize("role", ["layer", "mask", "like"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_reaches_no_server_and_no_other_file(trap: Trap, case: str, role: str) -> None:
    path = HOSTILE[case](trap)
    trap.hits(), trap.canary.opened()
    errors = tried(trap, path, role)
    assert trap.hits() == []
    assert not trap.canary.opened()
    assert all("cure" in error for error in errors)
    if "tag" in case or ".aux.xml" in case:
        assert errors == [] or role == "mask", "what needs no other file is read without it"
    elif "of its own" not in case and case != ".vrt with a .ovr" and "with OVERVIEW_FILE" not in case:
        assert errors, "nothing that pretends is opened"
