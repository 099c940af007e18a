"""STAC items as a layer: which asset, in which order, and what an error names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from helpers import north_up, write_raster

from geopipe.errors import SourceError
from geopipe.layers.access import Access
from geopipe.load import stac
from geopipe.run import pipeline
from geopipe.settings import load

UTM = "EPSG:32612"
S2 = Access.of_layer("s2")
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(name: str, hrefs: dict[str, str], **properties: Any) -> dict[str, Any]:
    assets = {key: {"href": href, "type": TIFF, "roles": ["data"]} for key, href in hrefs.items()}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2024-06-01T10:00:00Z"} | properties,
        "links": [],
        "assets": assets,
    }


ITEMS = [
    item("mid", {"B04": "mid.tif"}, datetime="2024-06-02T00:00:00Z", **{"eo:cloud_cover": 50.0}),
    item("old", {"B04": "./x/old.tif"}, datetime="2024-06-01T23:30:00-02:00", **{"eo:cloud_cover": 0}),
    item("new", {"B04": "https://host/new.tif"}, datetime="2024-06-02T02:00:00.5Z", **{"eo:cloud_cover": 99.5}),
]


@pytest.mark.parametrize(
    ("sort_by", "order"),
    [
        (None, "mid old new"),
        ("datetime", "mid old new"),  # half past eleven at -02:00 is half past one in the night after
        ("-datetime", "new old mid"),
        ("cloud_cover", "old mid new"),
        ("-cloud_cover", "new mid old"),
    ],
)
def test_order_and_addresses(sort_by: str | None, order: str) -> None:
    address = {"mid": "/items/mid.tif", "old": "/items/x/old.tif", "new": "https://host/new.tif"}
    result = stac.files([(i, Path("/items")) for i in ITEMS], "B04", sort_by, Access.of_layer("s2", ("https://host/",)))
    assert result == [address[name] for name in order.split()]


def test_items_that_are_alike_keep_their_order() -> None:
    same = [(item(name, {"a": f"{name}.tif"}, **{"eo:cloud_cover": 1}), Path("/")) for name in "cab"]
    for sort_by in ("datetime", "-datetime", "cloud_cover", "-cloud_cover"):
        assert stac.files(same, "a", sort_by, S2) == ["/c.tif", "/a.tif", "/b.tif"]


def test_an_interval_counts_from_its_start() -> None:
    interval = item("i", {"B04": "i.tif"}, datetime=None, start_datetime="2020-01-01T00:00:00Z")
    result = stac.files([(ITEMS[0], Path("/")), (interval, Path("/"))], "B04", "datetime", S2)
    assert result == ["/i.tif", "/mid.tif"]


def test_the_only_data_asset_need_not_be_named() -> None:
    one = item("i", {"B04": "b.tif"})
    one["assets"] |= {
        "thumbnail": {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]},
        "metadata": {"href": "m.xml", "type": "application/xml"},
    }
    assert stac.files([(one, Path("/"))], None, None, S2) == ["/b.tif"]
    del one["assets"]["B04"]["roles"]
    assert stac.files([(one, Path("/"))], None, None, S2) == ["/b.tif"], "by its media type"
    one["assets"]["B08"] = {"href": "c.tif", "roles": ["data", "reflectance"]}
    with pytest.raises(SourceError, match=r"layer s2: the STAC item 'i' has 2 data assets; all .*: B04, ") as caught:
        stac.files([(one, Path("/"))], None, None, S2)
    assert 'asset = "B04"' in caught.value.hint
    assert caught.value.layer == "s2"


@pytest.mark.parametrize(
    ("asset", "sort_by", "properties", "message"),
    [
        ("B8", None, {}, "the STAC item 'i' has no asset 'B8'; it has B04"),
        ("B04", "cloud_cover", {}, "the STAC item 'i' cannot be sorted: its eo:cloud_cover is None"),
        ("B04", "datetime", {"datetime": None}, "the STAC item 'i' cannot be sorted: its datetime is None"),
        ("B04", "datetime", {"datetime": "June"}, "the STAC item 'i' cannot be sorted: its datetime is 'June'"),
    ],
)
def test_what_an_item_lacks_is_named(asset: str, sort_by: str | None, properties: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=f"layer s2: {re.escape(message)}"):
        stac.files([(item("i", {"B04": "b.tif"}, **properties), Path("/"))], asset, sort_by, S2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no STAC item or item collection: its type is None"),
        ('{"type": "Catalog"}', "its type is 'Catalog'"),
        ('{"type": "Feature", "properties": {}}', "its type is 'Feature', and 0 of its 1 features are items"),
        ('{"type": "FeatureCollection", "features": []}', "its type is 'FeatureCollection'"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        stac.read(str(path), S2)


def test_what_is_no_json_holds_no_items(tmp_path: Path) -> None:
    for name in ("a.tif", "absent.json", "https://host/item.json"):
        assert stac.read(str(tmp_path / name) if "://" not in name else name, S2) == []


def scene(folder: Path, name: str, value: int) -> str:
    folder.mkdir(exist_ok=True)
    pixels = np.full((2, 3), value, "uint8")
    pixels[0, 0] = 0 if name == "clear" else value  # the clearest scene has a hole
    write_raster(folder / f"{name}.tif", pixels, UTM, north_up(500_000, 4_000_000, 10), nodata=0)
    return f"{name}.tif"


def column(folder: Path, layer: str) -> list[Any]:
    file = folder / "s.toml"
    grid = f'crs = "{UTM}"\nresolution = 10\nbounds = [500000, 3999980, 500030, 4000000]'
    file.write_text(f'[grid]\n{grid}\n[[layers]]\nname = "red"\n{layer}\n')
    summary = pipeline.run(load.load(file, ("engine.kind=local",)), overwrite=True)
    return ds.dataset(summary.output / "parquet").to_table()["red"].to_pylist()


def test_a_layer_of_items_takes_the_clearest_or_the_newest(tmp_path: Path) -> None:
    items = [
        item("cloudy", {"red": scene(tmp_path / "scenes", "cloudy", 3)}, datetime="2024-06-03T00:00:00Z"),
        item("clear", {"red": scene(tmp_path / "scenes", "clear", 1)}, datetime="2024-06-02T00:00:00Z"),
        item("old", {"red": scene(tmp_path / "scenes", "old", 2)}, datetime="2024-06-01T00:00:00Z"),
    ]
    for one, clouds in zip(items, (80, 1, 5), strict=True):
        one["properties"]["eo:cloud_cover"] = clouds
        (tmp_path / "scenes" / f"{one['id']}.json").write_text(json.dumps(one))
    together = tmp_path / "scenes" / "all.geojson"
    together.write_text(json.dumps({"type": "FeatureCollection", "features": items}))

    path = 'path = "scenes/all.geojson"\n'
    assert column(tmp_path, path + 'sort_by = "cloud_cover"') == [2, 1, 1, 1, 1, 1], "the hole is filled by the next"
    assert column(tmp_path, path + 'sort_by = "-datetime"') == [3] * 6
    assert column(tmp_path, path + 'sort_by = "datetime"\nasset = "red"') == [2] * 6
    assert column(tmp_path, path + 'sort_by = "datetime"\noverlap = "last"') == [3] * 6
    assert column(tmp_path, path + 'overlap = "max"') == [3] * 6
    assert column(tmp_path, 'path = "scenes/*.json"\nsort_by = "cloud_cover"') == [2, 1, 1, 1, 1, 1], "a file an item"
    assert column(tmp_path, 'path = ["scenes/old.json", "scenes/clear.json"]') == [2] * 6


def test_items_and_rasters_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "i.json").write_text(json.dumps(item("i", {"red": scene(tmp_path, "a", 1)})))
    with pytest.raises(SourceError, match=r"layer red: .*a\.tif holds no STAC items"):
        column(tmp_path, 'path = ["i.json", "a.tif"]')
    with pytest.raises(SourceError, match=r"layer red: .*a\.tif holds no STAC items") as caught:
        column(tmp_path, 'path = "a.tif"\nasset = "red"')
    assert "leave asset and sort_by out" in caught.value.hint


def test_a_wrong_order_is_refused_by_the_settings(tmp_path: Path) -> None:
    with pytest.raises(load.SettingsError, match=r'layers\.red\.sort_by = "cloudcover"'):
        column(tmp_path, 'path = "i.json"\nsort_by = "cloudcover"')
