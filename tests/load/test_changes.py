"""A source that changes while a run is at work: the run says so, publishes nothing, and can be done anew."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import surroundings
from helpers import north_up, plan_of, table_of, write_raster

from geopipe.errors import MachineError, PlanError, SourceError
from geopipe.grid.grid import Grid
from geopipe.layers.access import Access
from geopipe.layers.header import UNKNOWN, Stamp
from geopipe.layers.layer import Layer
from geopipe.load import stamps
from geopipe.plan.plan import Plan
from geopipe.run import pipeline
from geopipe.settings import load

GRID = Grid("EPSG:32612", 500_000, 4_000_000, 30, 30, width=64, height=64)
BOUNDS = 'crs = "EPSG:32612"\nresolution = 30\nbounds = [500000, 3998080, 501920, 4000000]\n'


def pixels(path: Path, value: int, **more: Any) -> Path:
    """A raster of one value; of one size in bytes, whatever the value."""
    return write_raster(path, np.full((64, 64), value, "int16"), GRID.crs, north_up(GRID.x0, GRID.y0, 30), **more)


def points(path: Path, value: float) -> Path:
    rows = {"x": [500_010.0, 500_100.0], "y": [3_999_990.0, 3_999_900.0], "v": [value, value]}
    if path.suffix == ".csv":
        path.write_text("x,y,v\n" + "".join(f"{x},{y},{v}\n" for x, y, v in zip(*rows.values(), strict=True)))
    else:
        pq.write_table(pa.table(rows), path)
    return path


def run(folder: Path, *layers: str, mask: str = "", change: Callable[[], object] | None = None) -> pipeline.Summary:
    """Run the layers; `change` is called once when the tiles are done, before anything is published."""
    left: list[Callable[[], object]] = [change] if change else []

    def watch(snapshot: pipeline.Snapshot) -> None:
        if left and threading.current_thread() is threading.main_thread():  # where it is called for the last time
            left.pop()()

    file = folder / "s.toml"
    file.write_text(f"[grid]\n{BOUNDS}{mask}\n" + "".join(f"[[layers]]\n{text}\n" for text in layers))
    return pipeline.run(load.load(file, ("engine.kind=local",)), watch=watch, resume=True)


def column(summary: pipeline.Summary, name: str = "a") -> set[float]:
    return set(pq.ParquetDataset(f"{summary.output}/parquet").read()[name].drop_null().to_pylist())


# ---------------------------------------------------------------- files of this machine


def test_a_raster_that_changes_during_a_run_is_not_published(tmp_path: Path) -> None:
    path = pixels(tmp_path / "a.tif", 1)
    with pytest.raises(SourceError, match=rf"layer a: {path} was changed since the run was planned: time \d+ -> \d+"):
        run(tmp_path, 'name = "a"\npath = "a.tif"', change=lambda: pixels(path, 2))
    assert not (tmp_path / "output").exists()
    assert column(run(tmp_path, 'name = "a"\npath = "a.tif"')) == {2}, "the run can be done anew"


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_table_that_changes_during_a_run_is_not_published(tmp_path: Path, name: str) -> None:
    path, layer = points(tmp_path / name, 1.5), f'name = "a"\npath = "{name}"\ncrs = "EPSG:32612"\nvalues = "v"'
    with pytest.raises(SourceError, match=rf"layer a: .*{name} was changed since the run was planned"):
        run(tmp_path, layer, change=lambda: points(path, 2.5))
    assert not (tmp_path / "output").exists()
    assert column(run(tmp_path, layer)) == {2.5}


def test_a_mask_that_changes_during_a_run_is_named(tmp_path: Path) -> None:
    pixels(tmp_path / "a.tif", 1)
    mask = pixels(tmp_path / "mask.tif", 1)
    with pytest.raises(SourceError, match=rf"layer grid.mask: {mask} was changed"):
        run(tmp_path, 'name = "a"\npath = "a.tif"', mask='mask = "mask.tif"', change=lambda: pixels(mask, 0))
    assert not (tmp_path / "output").exists()


def test_a_source_that_is_gone_before_the_commit_is_named(tmp_path: Path) -> None:
    path = pixels(tmp_path / "a.tif", 1)
    with pytest.raises(SourceError, match=rf"{path} was changed since the run was planned: it is gone"):
        run(tmp_path, 'name = "a"\npath = "a.tif"', change=path.unlink)


def test_a_changed_source_may_be_skipped(tmp_path: Path) -> None:
    path = pixels(tmp_path / "a.tif", 1)
    pixels(tmp_path / "b.tif", 3)
    layers = 'name = "a"\npath = "a.tif"\non_error = "skip"', 'name = "b"\npath = "b.tif"'
    summary = run(tmp_path, *layers, change=lambda: pixels(path, 2))
    assert summary.exit_code == 4
    assert "was changed" in summary.skipped["a"]
    assert column(summary) == set()
    assert column(summary, "b") == {3}


def changed_sidecar(folder: Path) -> Callable[[], object]:
    pixels(folder / "a.tif", 1)
    (folder / "a.tif.aux.xml").write_text("<PAMDataset><Metadata><MDI key='a'>1</MDI></Metadata></PAMDataset>")
    return lambda: (folder / "a.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")


def changed_part_of_a_mosaic(folder: Path) -> Callable[[], object]:
    pixels(folder / "part.tif", 1)
    placed = '<SourceFilename relativeToVRT="1">part.tif</SourceFilename>'
    band = f'<VRTRasterBand dataType="Int16" band="1"><SimpleSource>{placed}</SimpleSource></VRTRasterBand>'
    place = f"<SRS>EPSG:32612</SRS><GeoTransform>{GRID.x0}, 30, 0, {GRID.y0}, 0, -30</GeoTransform>"
    (folder / "a.vrt").write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{place}{band}</VRTDataset>')
    return lambda: pixels(folder / "part.tif", 2)


@pytest.mark.parametrize(("prepare", "name"), [(changed_sidecar, "a.tif"), (changed_part_of_a_mosaic, "a.vrt")])
def test_what_is_read_with_a_file_belongs_to_it(
    tmp_path: Path, prepare: Callable[[Path], Callable[[], object]], name: str
) -> None:
    change = prepare(tmp_path)
    with pytest.raises(SourceError, match=rf"{name} was changed since the run was planned: etag or hash"):
        run(tmp_path, f'name = "a"\npath = "{name}"', change=change)


def test_a_worker_refuses_a_file_that_is_not_the_planned_one(tmp_path: Path) -> None:
    path = pixels(tmp_path / "a.tif", 1)
    plan = plan_of(GRID, [Layer("a", (str(path),))])
    pixels(path, 2)
    with pytest.raises(SourceError, match=r"a\.tif was changed since the run was planned"):
        table_of(plan)


# ---------------------------------------------------------------- files on a server


STORES = {
    "AWS_S3_ENDPOINT": "127.0.0.1:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
    "AWS_NO_SIGN_REQUEST": "YES", "CPL_GS_ENDPOINT": "http://127.0.0.1:{port}/", "GS_NO_SIGN_REQUEST": "YES",
    "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=account;AccountKey=YQ==;"
    "BlobEndpoint=http://127.0.0.1:{port}/account",
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["http", "s3", "gs", "az", "/vsicurl/http"])
def test_a_remote_file_that_keeps_its_length_is_known_by_its_etag(
    tmp_path: Path, www: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    folder, port = www
    for name, value in STORES.items():
        monkeypatch.setenv(name, value.format(port=port))
    (folder / "bucket").mkdir(exist_ok=True)
    path = pixels(folder / "bucket/a.tif", 1)
    size = path.stat().st_size
    layer = Layer("a", (f"{scheme}://{f'127.0.0.1:{port}/' if 'http' in scheme else ''}bucket/a.tif",))
    plan = plan_of(GRID, [layer])
    assert next(iter(plan.identity["sources"].values()))["size"] == size
    pixels(path, 2)
    assert path.stat().st_size == size
    with pytest.raises(SourceError, match=r"a\.tif was changed since the run was planned: etag or hash"):
        table_of(plan)
    again = plan_of(GRID, [layer])
    assert again.hash != plan.hash
    assert set(table_of(again)["a"].to_pylist()) == {2}, "and nothing of the old file is left in memory"


def test_a_remote_file_that_changes_during_a_run_is_not_published(tmp_path: Path, www: tuple[Path, int]) -> None:
    path = pixels(www[0] / "b.tif", 1)
    layer = f'name = "a"\npath = "http://127.0.0.1:{www[1]}/b.tif"'
    with pytest.raises(SourceError, match=r"b\.tif was changed since the run was planned: etag or hash"):
        run(tmp_path, layer, change=lambda: pixels(path, 2))
    assert not (tmp_path / "output").exists()
    assert column(run(tmp_path, layer)) == {2}


def test_without_an_etag_a_remote_file_is_known_by_its_length(www: tuple[Path, int]) -> None:
    path = pixels(www[0] / "c.tif", 1)
    address = f"http://127.0.0.1:{www[1]}/c.tif?bare"
    assert stamps.stamp_of(address) == Stamp(path.stat().st_size)
    plan = plan_of(GRID, [Layer("a", (address,))])
    pixels(path, 2, scales=(2.0,))
    with pytest.raises(SourceError, match=r"c\.tif\?bare was changed since the run was planned: size \d+ -> \d+"):
        table_of(plan)


def test_what_a_plan_could_not_know_is_no_change(www: tuple[Path, int]) -> None:
    path = pixels(www[0] / "f.tif", 1)
    plan = plan_of(GRID, [Layer("a", (f"http://127.0.0.1:{www[1]}/f.tif",))])
    header = replace(plan.layers[0].decisions[0].source.files[0].header, stamp=UNKNOWN)
    stamps.refuse_change(header, Access.of_layer("a"))
    pixels(path, 2)
    stamps.refuse_change(header, Access.of_layer("a"))


def test_a_server_that_is_gone_before_the_commit_keeps_the_tiles(tmp_path: Path) -> None:
    """Nothing tells that the file is another one: it can be looked at again when the server is back."""
    script = surroundings.SERVERS / "range_server.py"
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pixels(tmp_path / "a.tif", 1)
        layer = f'name = "a"\npath = "http://127.0.0.1:{int(server.stdout.readline())}/a.tif"'

        try:
            with pytest.raises(MachineError, match="its server does not answer"):
                run(tmp_path, layer, change=lambda: (server.kill(), server.wait()))
        finally:
            server.kill()
    assert list((tmp_path / "output/_staging").glob("*/plan.json"))


def test_a_run_does_not_go_on_with_a_remote_file_that_is_another_one(tmp_path: Path, www: tuple[Path, int]) -> None:
    path = pixels(www[0] / "d.tif", 1)
    layer = f'name = "a"\npath = "http://127.0.0.1:{www[1]}/d.tif"'

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, layer, change=stop)
    pixels(path, 2)
    with pytest.raises(PlanError, match=r"d\.tif\.tag: .* -> "):
        run(tmp_path, layer)
    about = json.loads(next((tmp_path / "output/_staging").glob("*/plan.json")).read_text())
    assert len(about["identity"]["sources"]) == 1


def test_the_hash_covers_the_tag(www: tuple[Path, int]) -> None:
    path = pixels(www[0] / "e.tif", 1)
    address = f"http://127.0.0.1:{www[1]}/e.tif"

    def planned() -> Plan:
        return plan_of(GRID, [Layer("a", (address,))])

    one, same = planned(), planned()
    pixels(path, 2)
    assert one.hash == same.hash != planned().hash
