"""The monitor's database as its users meet it: addresses, refusals, proof, pruning, rights, old coordinates."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from helpers import call
from postgres_server import PASSWORD, Server
from psycopg2.extensions import parse_dsn
from records import TABLES, a_run, query, record, tables

from geopipe.errors import GeopipeError, MachineError, SettingsError
from geopipe.events.records import new_run_id
from geopipe.monitoring.database import connections, role, schema, store
from geopipe.monitoring.legacy import old_system
from geopipe.monitoring.legacy.old_system import PixelGrid


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own database is found by a test."""
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path / "home"))
    for name in (connections.DSN, connections.DSN_FILE):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------- the address


def test_the_address_is_told_by_variable_then_file_then_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert connections.dsn() is None
    file = tmp_path / "dsn"
    file.write_text("postgresql://file/x\n")
    monkeypatch.setenv(connections.DSN_FILE, str(file))
    assert connections.dsn() == "postgresql://file/x"
    monkeypatch.setenv(connections.DSN, " postgresql://variable/x ")
    assert connections.dsn() == "postgresql://variable/x"
    assert connections.dsn(file) == "postgresql://file/x"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"postgresql://u:{PASSWORD}@h:5433/d?sslmode=require", "postgresql://u@h:5433/d"),
        (f"host=h dbname=d password={PASSWORD} sslkey=/secret", "postgresql://h/d"),
        (f"postgresql:///d?host=/run&user=u&password={PASSWORD}", "postgresql://u@/run/d"),
        (f"service=s password={PASSWORD}", "postgresql://localhost/ (service s)"),
        (f"postgresql://u:{PASSWORD}/x@h", "an address that is not valid"),
        (f"postgresql://u:p@{PASSWORD}@h/x", "an address that is not valid"),
        (f"postgresql://u:p/{PASSWORD}@h/x", "an address that is not valid"),
        (f"nonsense {PASSWORD}", "an address that is not valid"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert connections.masked(address) == shown


# ---------------------------------------------------------------- refusals: each with its hint, none with a password


def refusals(server: Server, tmp_path: Path) -> dict[str, tuple[str, str]]:
    """For each way to have no database: an address, what is said of it."""
    old, new, system = server.database(), server.database(), server.database()
    schema.upgrade(old, "0001")
    schema.upgrade(new)
    query(new, "UPDATE geopipe_version SET version_num = '9999'")
    query(system, "CREATE TABLE pipeline_logs (id int)")
    wrong = server.dsn.replace(PASSWORD, "wrong-7f3a91")
    return {
        "unreachable": (
            f"postgresql://u:{PASSWORD}@127.0.0.1:1/x",
            r"at postgresql://u@127.0.0.1:1/x cannot be reached: .*refused.*\n  hint: see that the server runs",
        ),
        "unknown host": (
            f"host=nowhere.invalid password={PASSWORD}",
            r"cannot be reached: could not translate host name.*\n  hint: see that",
        ),
        "password": (
            wrong,
            r"refuses this user or password\n  hint: correct user and password in GEOPIPE_MONITORING_DSN",
        ),
        "user": (
            server.dsn.replace("geopipe:", "nobody_here:"),
            r"refuses this user or password\n  hint: correct user",
        ),
        "database": (
            server.dsn.replace("/postgres", "/none"),
            r"the server has no database of this name\n  hint: create it with createdb",
        ),
        "malformed": (
            f"postgresql://u:{PASSWORD}/x@h",
            r"is not valid\n  hint: correct GEOPIPE_MONITORING_DSN: postgresql://",
        ),
        "keywords": (f"host=h pass word={PASSWORD}", r"is not valid\n  hint: correct GEOPIPE_MONITORING_DSN"),
        "port": (f"postgresql://u:{PASSWORD}@h:12x/d", r"is not valid\n  hint: correct GEOPIPE_MONITORING_DSN"),
        "missing": (server.database(), r"has no tables of geopipe\n  hint: run `geopipe db upgrade`$"),
        "old system": (
            system,
            r"has the tables of the old system\n  hint: run `geopipe db upgrade`, which keeps every row",
        ),
        "too old": (old, r"has an old schema: revision 0001, and 0002 is needed\n  hint: run `geopipe db upgrade`"),
        "too new": (new, r"schema of a newer geopipe: revision 9999, and this one knows 0002\n  hint: install that"),
    }


WAYS = ("unreachable", "unknown host", "password", "user", "database", "malformed", "keywords", "port", "missing")
WAYS += ("old system", "too old", "too new")


@pytest.fixture(scope="module")
def ways(postgres_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    return refusals(postgres_server, tmp_path_factory.mktemp("ways"))


@pytest.mark.parametrize("way", WAYS)
def test_why_there_is_no_connection_is_said_with_a_cure_and_no_password(
    ways: dict[str, tuple[str, str]],
    way: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, message = ways[way]
    with pytest.raises(MachineError, match=message) as caught:
        connections.connect(address)
    monkeypatch.setenv(connections.DSN, address)
    code, out, err = call(capsys, "db", "validate")
    assert (code, out) == (3, "")
    assert err == f"error: {caught.value}\n"
    for text in (err, repr(caught.value.args)):
        assert PASSWORD not in text
        assert "wrong-7f3a91" not in text
    assert caught.value.__cause__ is None


def test_a_newer_schema_is_not_upgraded(ways: dict[str, tuple[str, str]]) -> None:
    with pytest.raises(MachineError, match="schema of a newer geopipe"):
        schema.upgrade(ways["too new"][0])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), ("", "holds no address"), (b"\xff", "cannot be read: it is no text")],
)
def test_a_file_that_says_nothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    file = tmp_path / "dsn"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = call(capsys, "db", "current", "--dsn-file", file)
    assert code == 3
    assert message in err
    assert str(file) in err


def test_without_any_address_all_ways_to_one_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "db", "current")
    assert code == 3
    assert all(word in err for word in (connections.DSN, connections.DSN_FILE, "geopipe db start"))


def test_a_statement_has_its_time_and_the_search_path_of_the_address_stays(database: str) -> None:
    with (
        closing(connections.connect(database, statement_timeout=2.0)) as connected,
        connected.cursor() as cursor,
        pytest.raises(psycopg2.errors.QueryCanceled),
    ):
        cursor.execute("SELECT pg_sleep(120)")
    query(database, "CREATE SCHEMA other")
    address = f"{database}?options=-csearch_path%3Dother,public"
    with closing(connections.connect(address)) as connected, connected.cursor() as cursor:
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ("other,public",)


# ---------------------------------------------------------------- validate, current, upgrade


def test_validate_writes_reads_back_and_leaves_nothing(database: str) -> None:
    before = tables(database)
    result = schema.validate(database)
    assert result.removed
    assert set(result.checks) >= {"log", "metric", "event", "progress", "state", "notification"}
    assert tables(database) == before


def test_validate_finds_a_database_that_keeps_something_else(database: str) -> None:
    query(
        database,
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.message := ''x''; RETURN NEW; END';"
        "CREATE TRIGGER lose BEFORE INSERT ON pipeline_logs FOR EACH ROW EXECUTE FUNCTION lose()",
    )
    with pytest.raises(MachineError, match=r"the log at .* is read as .*, but .* was written"):
        schema.validate(database)


def test_the_commands_say_what_they_did(
    empty_database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "dsn"
    file.write_text(empty_database)
    outs = []

    def db(*args: object) -> tuple[int, str]:
        code, out, err = call(capsys, "db", *args, "--dsn-file", file)
        assert err == ""
        outs.append(out)
        return code, out

    code, out = db("current", "--json")
    assert code == 1
    assert json.loads(out).items() >= {"revision": None, "head": "0002", "is_current": False}.items()
    assert db("upgrade")[1].startswith("revision 0002, was none: postgresql://geopipe@127.0.0.1:")
    assert db("upgrade")[1].startswith("revision 0002 already")
    assert json.loads(db("upgrade", "--json")[1])["before"] == "0002"
    assert db("current")[0] == 0
    assert "written twice, read back once: log, metric" in db("validate")[1]
    assert json.loads(db("validate", "--json")[1])["removed"] is True
    assert db("prune", "--older-than", 5, "--dry-run")[1].startswith("would drop nothing before ")
    assert json.loads(db("prune", "--older-than", 5, "--json")[1])["days"] == []
    assert db("migrate-coordinates")[1] == "there are no such tables\n"
    assert not any(PASSWORD in out for out in outs)


def test_the_command_line_loads_neither_psycopg2_nor_alembic() -> None:
    code = (
        "import sys, click.testing, geopipe.cli.main as c\n"
        "assert click.testing.CliRunner().invoke(c.cli, ['db', '--help']).exit_code == 0\n"
        "assert not {'psycopg2', 'alembic', 'sqlalchemy', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_connection_loads_neither_alembic_nor_sqlalchemy() -> None:
    code = (
        "import sys, geopipe.monitoring.database.schema\n"
        "assert not {'alembic', 'sqlalchemy', 'ray', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- partitions and pruning


def run_of(days_ago: float) -> str:
    """A run id of a time that is past."""
    stamp = int((datetime.now(UTC) - timedelta(days=days_ago)).timestamp() * 1000)
    return f"{stamp >> 16:08x}-{stamp & 0xFFFF:04x}{new_run_id()[13:]}"


def partitions(dsn: str) -> list[str]:
    return [
        name for (name,) in query(dsn, "SELECT inhrelid::regclass::text FROM pg_inherits ORDER BY 1") if "2" in name
    ]


def test_partitions_that_many_make_at_once_are_there_once(database: str) -> None:
    barrier, errors = threading.Barrier(8), []

    def work(number: int) -> None:
        with closing(connections.connect(database)) as connected:
            for day in range(5):
                run = run_of(day)
                barrier.wait()
                try:
                    store.write(
                        connected, [record(run, 1, "metric", f"s{number}"), record(run, 2, "log", f"s{number}")]
                    )
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    tables_only = [name for name in partitions(database) if not name.endswith(("idx", "pkey", "idx1"))]
    assert len(tables_only) == 15
    assert query(database, "SELECT count(*) FROM pipeline_logs") == [(40,)]


@pytest.mark.parametrize("day", ["NULL", "'infinity'", "'1969-12-31'"])
def test_a_day_that_is_none_makes_no_partition(database: str, day: str) -> None:
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        query(database, f"SELECT geopipe_partitions({day})")


def test_prune_drops_whole_days_and_their_runs_and_nothing_else(database: str) -> None:
    old, edge, new = run_of(40), run_of(9.9), run_of(1)
    with closing(connections.connect(database)) as connected:
        for run in (old, edge, new):
            store.write(connected, [{**r, "run_id": run} for r in a_run(1, 40)])
        lost = run_of(45)  # a run of which only logs and progress arrived
        store.write(connected, [record(lost, 1), record(lost, 2, "progress")])
    was = tables(database)
    dry = schema.prune(database, 10, dry_run=True)
    assert tables(database) == was
    done = schema.prune(database, 10)
    assert (dry.days, dry.partitions, dry.rows) == (done.days, done.partitions, done.rows)
    assert len(done.days) == 2
    assert len(done.partitions) == 6
    assert done.rows == {
        "pipeline_sources": 3,
        "pipeline_runs": 1,
        "pipeline_progress": 2,
        "pipeline_metrics_latest": 1,
    }
    left = tables(database)
    for name in TABLES:
        assert left[name] == [row for row in was[name] if row["run_id"] in (edge, new)], name
        assert {row["run_id"] for row in left[name]} == {edge, new}, name
    assert not any(name.rpartition("_")[2] in {f"{d:%Y%m%d}" for d in done.days} for name in partitions(database))
    again = schema.prune(database, 10)
    assert (again.days, again.partitions) == ((), ())
    with closing(connections.connect(database)) as connected:
        store.write(connected, [record(old, 1)])  # what comes late is still taken


def test_prune_keeps_a_day_whose_run_is_at_work(database: str) -> None:
    run = run_of(40)
    with closing(connections.connect(database)) as connected:
        state = record(run, 1, "state", ts=datetime.now(UTC).timestamp() - 30)
        store.write(connected, [state, record(run, 2)])
        done = schema.prune(database, 10)
        assert (done.days, len(done.kept)) == ((), 1)
        store.write(connected, [record(run, 3, "state", state="completed")])
    assert len(schema.prune(database, 10).days) == 1


def test_prune_says_that_a_table_is_locked(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(connections.connect(database)) as connected:
        store.write(connected, [record(run_of(40), 1)])
        monkeypatch.setattr(schema, "LOCK_TIMEOUT", "200ms")
        with connected.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pipeline_logs")
            with pytest.raises(MachineError, match="waits for a lock that another program holds; nothing was changed"):
                schema.prune(database, 10)
        connected.rollback()
    assert query(database, "SELECT count(*) FROM pipeline_logs") == [(1,)]


# ---------------------------------------------------------------- rights


@pytest.fixture
def writer(database: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The address of the database for a role that has the rights that `geopipe db role` prints."""
    name = "run \"er's"
    code, text, _ = call(capsys, "db", "role", "--name", name)
    assert code == 0
    assert text == role.statements(name)
    for _ in range(2):  # it can be given again
        query(database, text)
    query(database, f"ALTER ROLE {role.quoted(name)} PASSWORD 'p'")
    parts = parse_dsn(database)
    return psycopg2.extensions.make_dsn(**{**parts, "user": name, "password": "p"})


def test_a_name_of_a_role_stays_in_its_place() -> None:
    """What is printed goes to psql as the owner of the tables."""
    for name in ("x\nDROP TABLE pipeline_runs; --", 'a"b', "c'd", "x\r\n\\! reboot", "\u2028y"):
        first, second, *_ = role.statements(name).split("\n")
        assert first.startswith("-- For the owner of the tables.")
        assert second == "DO $$ BEGIN"
        assert not set("\r\u2028") & set(first)


def test_the_role_of_a_run_can_write_read_and_be_watched(writer: str, database: str) -> None:
    records = a_run()
    with closing(connections.connect(writer)) as connected:
        for _ in range(2):
            store.write(connected, records)
    assert query(database, "SELECT count(*) FROM pipeline_logs") == [(45,)]
    for view in ("pipeline_active_runs", "pipeline_error_summary", "pipeline_progress_tree"):
        query(writer, f"SELECT * FROM {view}")
    assert schema.current(writer).is_current
    result = schema.validate(writer)
    assert not result.removed
    assert query(database, "SELECT state FROM pipeline_runs WHERE name = 'validate'") == [("completed",)]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE pipeline_logs",
        "CREATE TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE pipeline_runs ADD COLUMN x int",
        "TRUNCATE pipeline_runs",
        "DELETE FROM pipeline_runs",
        "UPDATE pipeline_logs SET message = ''",
        "UPDATE geopipe_version SET version_num = '1'",
        "CREATE OR REPLACE FUNCTION geopipe_cause(message text) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
        "CREATE ROLE other",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_the_role_of_a_run_can_change_nothing_else(writer: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(writer, statement)


def test_what_a_role_may_not_do_is_said(writer: str) -> None:
    with closing(connections.connect(writer)) as connected:
        store.write(connected, [record(run_of(40), 1)])
    with pytest.raises(MachineError, match=r"pruning at .* is not permitted: .*\n  hint: use the role that owns"):
        schema.prune(writer, 10)


def test_others_cannot_make_partitions(database: str) -> None:
    query(database, "CREATE ROLE stranger LOGIN PASSWORD 'p'")
    stranger = psycopg2.extensions.make_dsn(**{**parse_dsn(database), "user": "stranger", "password": "p"})
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(stranger, "SELECT geopipe_partitions('2030-01-01')")


# ---------------------------------------------------------------- coordinates of old tables

CELLS = (
    "SELECT r AS {row}, c AS {col}, (r * 10 + c)::float8 AS value FROM generate_series(0, 7) r, generate_series(0, 4) c"
)


@pytest.fixture
def cells(empty_database: str) -> str:
    """Tables of cells as the old system left them, with a table of datasets that knows the grid of two."""
    query(
        empty_database,
        f"CREATE TABLE resampled_rain AS {CELLS.format(row='row_idx', col='col_idx')};"
        f"CREATE TABLE passthrough_soil AS {CELLS.format(row='row', col='col')};"
        f"CREATE TABLE resampled_lost AS {CELLS.format(row='row', col='col')};"
        "CREATE TABLE resampled_datasets (name text, target_resolution float8, bounds float8[], data_table_name text);"
        "INSERT INTO resampled_datasets VALUES ('rain', 0.1, '{10, 49.2, 10.5, 50}', 'public.resampled_rain'),"
        "('other', 1, '{0, 0, 1, 1}', 'resampled_none');"
        "CREATE TABLE passthrough_datasets (dataset_name text, resolution jsonb, min_x float8, min_y float8,"
        "max_x float8, max_y float8); INSERT INTO passthrough_datasets VALUES ('Soil', '[30, 60]', 500, 0, 650, 480)",
    )
    return empty_database


LOST = PixelGrid(100.0, 200.0, 2.0, 1.0)


def coordinates(dsn: str, table: str, row: str = "row", col: str = "col") -> list[Any]:
    return query(dsn, f"SELECT {row}, {col}, x_coord, y_coord FROM {table} ORDER BY 1, 2")


def test_old_tables_get_the_centres_of_their_pixels(cells: str) -> None:
    dry = old_system.migrate_coordinates(cells, grid=LOST, dry_run=True)
    assert not query(cells, "SELECT FROM information_schema.columns WHERE column_name = 'x_coord'")
    done = old_system.migrate_coordinates(cells, grid=LOST)
    assert [(m.table, m.grid, m.filled) for m in dry] == [(m.table, m.grid, m.filled) for m in done]
    assert [(m.table, m.rows, m.filled) for m in done] == [
        ("passthrough_soil", 40, 40),
        ("resampled_lost", 40, 40),
        ("resampled_rain", 40, 40),
    ]
    for row, col, x, y in coordinates(cells, "resampled_rain", "row_idx", "col_idx"):
        assert (x, y) == (pytest.approx(10 + (col + 0.5) * 0.1), pytest.approx(50 - (row + 0.5) * 0.1))
    for row, col, x, y in coordinates(cells, "passthrough_soil"):
        assert (x, y) == (500 + (col + 0.5) * 30, 480 - (row + 0.5) * 60)
    for row, col, x, y in coordinates(cells, "resampled_lost"):
        assert (x, y) == (100 + (col + 0.5) * 2, 200 - (row + 0.5))
    assert query(cells, "SELECT sum(value) FROM resampled_lost") == [(1480.0,)]
    assert [m.filled for m in old_system.migrate_coordinates(cells, grid=LOST)] == [0, 0, 0]


def test_coordinates_that_were_half_filled_are_completed_and_wrong_ones_refused(cells: str) -> None:
    query(
        cells,
        "ALTER TABLE resampled_rain ADD x_coord float8, ADD y_coord float8;"
        "UPDATE resampled_rain SET x_coord = 10.05 + col_idx * 0.1, y_coord = 49.95 - row_idx * 0.1 WHERE row_idx < 3",
    )
    (done,) = old_system.migrate_coordinates(cells, tables=["resampled_rain"])
    assert (done.filled, done.rows) == (25, 40)
    query(cells, "UPDATE resampled_rain SET x_coord = x_coord + 0.01 WHERE row_idx = 3")
    with pytest.raises(MachineError, match="5 rows of resampled_rain have coordinates that are not those of the grid"):
        old_system.migrate_coordinates(cells, tables=["resampled_rain"])


def test_a_table_whose_grid_nobody_knows_stops_all_before_anything_is_done(cells: str) -> None:
    with pytest.raises(SettingsError, match=r"bounds and resolution of resampled_lost\n  hint: give --origin-x"):
        old_system.migrate_coordinates(cells)
    assert not query(cells, "SELECT FROM information_schema.columns WHERE column_name = 'x_coord'")


@pytest.mark.parametrize(
    ("change", "grid", "tables", "error"),
    [
        ("UPDATE resampled_lost SET row = NULL WHERE col = 1", LOST, (), "8 of 40 rows of resampled_lost have no row"),
        ("SELECT 1", LOST, ("resampled_datasets",), "resampled_datasets: no table passthrough_"),
        (
            "INSERT INTO resampled_datasets SELECT name, 0.2, bounds, data_table_name FROM resampled_datasets",
            LOST,
            (),
            "resampled_datasets says two grids of resampled_rain",
        ),
    ],
)
def test_what_stands_in_the_way_of_coordinates_is_said_and_nothing_is_changed(
    cells: str, change: str, grid: PixelGrid, tables: tuple[str, ...], error: str
) -> None:
    query(cells, change)
    with pytest.raises(GeopipeError, match=error):
        old_system.migrate_coordinates(cells, grid=grid, tables=tables)
    assert not query(cells, "SELECT FROM information_schema.columns WHERE column_name = 'x_coord'")


def test_a_grid_on_the_command_line_is_whole_and_sound(
    cells: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(connections.DSN, cells)
    arguments = ["--origin-x", 100, "--origin-y", 200, "--pixel-width", 2, "--pixel-height"]
    code, _, err = call(capsys, "db", "migrate-coordinates", *arguments[:-1])
    assert (code, "go together" in err) == (2, True)
    assert call(capsys, "db", "migrate-coordinates", *arguments, 0)[0] == 2
    code, out, _ = call(capsys, "db", "migrate-coordinates", *arguments, 1, "--dry-run")
    assert (code, "resampled_lost: 40 of 40 rows would get coordinates" in out) == (0, True)
    code, out, _ = call(capsys, "db", "migrate-coordinates", *arguments, 1, "--json")
    document = {one["table"]: one for one in json.loads(out)}
    assert document["resampled_lost"]["x_range"] == [101.0, 109.0]
    assert document["resampled_rain"]["grid"]["source"] == "table resampled_datasets"
