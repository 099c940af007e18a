"""A secret in the address of a source is at no exit of a run: files, records, database, terminal, Ray's logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pyarrow.parquet as pq
import pytest
from canary import CANARY, GRID, files_with, fill, secret_settings, signed
from helpers import call, north_up, plan_of, write_raster

from geopipe.errors import SourceError
from geopipe.layers.layer import Layer
from geopipe.redaction import HIDDEN, redact, redacted
from geopipe.run import pipeline
from geopipe.settings import load

HIDES = [
    "https://user:{}@host/a.tif",
    "https://{}@host/a.tif",
    "https://user:{}/with?odd#signs@host/a.tif",
    "s3://AKIA:{}@bucket/a.tif",
    "https://host/a.tif?sv=2024&sig={}&se=1",
    "https://host/a.tif?X-Amz-Algorithm=AWS4&X-Amz-Credential={0}%2Fx&X-Amz-Signature={0}&x=1",
    "https://host/a.tif?X-Goog-Signature={}",
    "https://host/a.tif?token={}",
    "https://host/a.tif?access_token={}#x",
    "https://host/a.tif?apikey={0}&api_key={0}&subscription-key={0}&key={0}",
    "/vsicurl?header.Authorization=Bearer {}&url=https://host/a.tif",
    "/vsicurl?header.X-Key={}&url=https%3A%2F%2Fuser%3A{}%40host%2Fa.tif%3Fsig%3D{}%26x%3D1",
    "/vsicurl?userpwd=user:{}&url=https://host/a.tif",
    'NETCDF:"/vsicurl/https://host/a.nc?token={}":tas',
    "Authorization: Bearer {}",
    "Authorization: Basic {}",
    "postgresql://user:{}@host/db",
    "postgresql://user@host/db?sslmode=require&sslpassword={}",
    "host=host password='{} x' dbname=x",
    "AccountName=x;AccountKey={}==;BlobEndpoint=http://host",
    "AWS_SECRET_ACCESS_KEY={}",
]


@pytest.mark.parametrize("text", HIDES)
def test_a_secret_is_hidden(text: str) -> None:
    for whole in (text, f"layer a: {text} is no raster", json.dumps({"path": text}), repr(text)):
        text = whole.replace("{0}", CANARY).replace("{}", CANARY)
        shown = redact(text)
        assert CANARY not in shown
        assert HIDDEN in shown
        assert "host" not in text or "host" in shown or "#signs" in text
        assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/data@2024/a.tif", "s3://bucket/a@b.tif", "abfs://container@account.dfs.core.windows.net/x",
        "postgresql://user@host:5432/db", "/data/year=2024/a.tif", "layer a: key = id, keys=3", "a basic geotransform",
        "https://host/a.tif?version=2&band=1", 'NETCDF:"/data/a.nc":tas', "x@y.z", "bounds = [1, 2, 3, 4]",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("part", ["a:", "token", "%3F", "?key", "@", "x=", "bearer ", "://"])
def test_a_long_text_is_looked_through_in_a_moment(part: str) -> None:
    """No part of a text is looked at as often as there are others: that would take minutes here."""
    redact("https://" + part * (300_000 // len(part)) + "=")


def test_what_loses_a_secret_stays_apart() -> None:
    one, two = (redacted({"a": [f"https://h/a.tif?sig={s}"]}, mark=True)["a"][0] for s in ("x1", "x2"))
    assert one != two
    assert one.startswith(f"https://h/a.tif?sig={HIDDEN}#")
    assert redacted({"a": "b"}, mark=True) == {"a": "b"}


@pytest.fixture(scope="module")
def www(www: tuple[Path, int]) -> tuple[Path, int]:
    """The server's folder with a raster for each use."""
    fill(www[0])
    return www


def rows_of(dsn: str) -> str:
    """All rows of all tables of the monitor's database, as text."""
    with closing(psycopg2.connect(dsn)) as connected, connected.cursor() as cursor:
        cursor.execute("SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tablename LIKE 'pipeline%'")
        texts = []
        for (name,) in cursor.fetchall():
            cursor.execute(f"SELECT t::text FROM {name} t")
            texts += [row for (row,) in cursor.fetchall()]
    return "\n".join(texts)


@pytest.fixture
def watched(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs of this test go to a database of its own, and keep what is theirs in its folder."""
    monkeypatch.setenv("GEOPIPE_MONITORING__ENABLE_DATABASE_LOGGING", "true")
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", database)
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path / "home"))
    return database


def test_a_secret_is_at_no_exit_of_a_run(
    tmp_path: Path, www: tuple[Path, int], watched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    file = secret_settings(work, www[1], "[monitoring]", 'log_level = "DEBUG"')
    shown: dict[str, Any] = {}
    for form in ("text", "json"):
        style = f"monitoring.log_format={form}"
        code, *shown[f"run {form}"] = call(capsys, "run", file, "--engine=local", "--overwrite", "--set", style)
        assert code == 0, shown
        code, *shown[f"plan {form}"] = call(capsys, "plan", file, *(["--json"] if form == "json" else []))
        assert code == 0
    for name, *args in (
        ("inspect", "inspect", signed(www[1], "a")),
        ("inspect json", "inspect", signed(www[1], "a"), "--json"),
        ("absent", "inspect", signed(www[1], "absent")),
        ("config", "config", "show", file),
        ("config json", "config", "show", file, "--json"),
        ("wrong", "run", file, "--engine=local", "--set", f"grid.resolution=https://user:{CANARY}@host"),
        ("twice", "run", file, "--engine=local"),
        ("status", "status", work / "output", "--json"),
        ("logs", "monitor", "logs", "latest", "--level", "DEBUG"),
        ("runs", "monitor", "runs", "--json"),
    ):
        _, *shown[name] = call(capsys, *args)
    assert {name for name, texts in shown.items() if CANARY in "".join(texts)} == set()
    table = pq.ParquetDataset(work / "output/parquet").read()
    assert table.num_rows == 64
    assert HIDDEN in str(json.loads((work / "output/_SUCCESS").read_text())["provenance"]["sources"])
    assert files_with(CANARY, work / "output") == []
    assert files_with(CANARY, tmp_path / "home") == []
    rows = rows_of(watched)
    assert HIDDEN in rows, "the settings of the run are there"
    assert CANARY not in rows


def test_a_secret_is_in_no_record_of_a_run_that_fails(
    tmp_path: Path, www: tuple[Path, int], watched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message of the error has the address; what was done stays in the staging folder, with its plan."""
    work = tmp_path / "work"
    work.mkdir()
    write_raster(www[0] / "gone.tif", np.ones((8, 8), "uint8"), GRID.crs, north_up(GRID.x0, GRID.y0, 30))
    file = secret_settings(work, www[1])
    file.write_text(file.read_text() + f'[[layers]]\nname = "d"\npath = "{signed(www[1], "gone")}&short=20"\n')
    code, *shown = call(capsys, "run", file, "--engine=local")
    assert code in (1, 2)
    assert "layer d" in shown[1]
    assert CANARY not in "".join(shown)
    assert CANARY not in rows_of(watched)
    assert files_with(CANARY, tmp_path / "home") == []


def test_a_run_that_is_cut_short_leaves_no_secret(tmp_path: Path, www: tuple[Path, int]) -> None:
    file = secret_settings(tmp_path, www[1])

    def stop(_: object) -> None:
        if threading.current_thread() is threading.main_thread():  # where a signal would be raised
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(load.load(file, ("engine.kind=local",)), watch=stop)
    staged = list((tmp_path / "output/_staging").glob("*/plan.json"))
    assert len(staged) == 1
    assert files_with(CANARY, tmp_path / "output") == []
    assert len(json.loads(staged[0].read_text())["identity"]["sources"]) == 3
    assert pipeline.run(load.load(file, ("engine.kind=local",)), resume=True).rows == 64, (
        "and goes on with the same addresses"
    )


def test_the_identity_tells_two_secrets_apart(www: tuple[Path, int]) -> None:
    one, two = (plan_of(GRID, [Layer("a", (signed(www[1], "a", secret),))]) for secret in ("s1", "s2"))
    assert one.hash != two.hash
    assert one.identity["sources"].keys() != two.identity["sources"].keys()


@pytest.mark.parametrize("option", ["password", "sslpassword"])
def test_a_password_of_postgres_is_refused_and_not_repeated(tmp_path: Path, option: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(f'[[layers]]\nname = "p"\npath = "postgresql://user@host/db?{option}={CANARY}"\ntable = "t"\n')
    with pytest.raises(load.SettingsError, match="there is a password in it") as caught:
        load.load(file)
    assert CANARY not in str(caught.value)


def test_an_error_never_has_a_secret() -> None:
    error = SourceError(f"layer a: https://host/a.tif?sig={CANARY} is gone", f"https://u:{CANARY}@host", "a")
    assert CANARY not in f"{error}{error!r}{error.args}{error.message}{error.hint}"


@pytest.mark.ray
def test_ray_keeps_no_secret_in_its_logs(tmp_path: Path, www: tuple[Path, int]) -> None:
    """A run of its own Ray, good and broken: what workers print and Ray Data logs lies in the session's folder."""
    (tmp_path / "ray").mkdir()
    file = secret_settings(tmp_path, www[1], "[engine]", "workers = 1")
    environment = {**os.environ, "RAY_TMPDIR": f"/tmp/geopipe-secrets-{os.getpid()}", "RAY_ADDRESS": "local"}
    Path(environment["RAY_TMPDIR"]).mkdir()
    try:
        command = [sys.executable, "-m", "geopipe", "run", str(file), "--overwrite", "--engine=ray"]
        for expected in (0, 1):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == expected, done.stderr
            assert CANARY not in done.stdout + done.stderr
            assert files_with(CANARY, Path(environment["RAY_TMPDIR"])) == []
            # its pixels are cut short, at the end of the file, which only a worker comes to
            broken, noise = signed(www[1], "broken"), np.random.default_rng(0).integers(0, 255, (64, 64), "uint8")
            place = north_up(GRID.x0, GRID.y0, 30)
            write_raster(www[0] / "broken.tif", noise, GRID.crs, place, driver="COG", compress="deflate")
            file.write_text(file.read_text() + f'[[layers]]\nname = "d"\npath = "{broken}&short=2000"\n')
        assert files_with(CANARY, tmp_path / "output") == []
    finally:
        subprocess.run(["rm", "-rf", environment["RAY_TMPDIR"]], check=False)
