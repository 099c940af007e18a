"""`geopipe monitor` as its user meets it: what it prints on a terminal and elsewhere, when it ends, how it fails."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import postgres_server as postgres
import psycopg2
import pytest
from click.testing import CliRunner, Result
from monitored import HOSTILE, Source, fill, new_id, settle
from records import query
from rich.cells import cell_len
from waiting import PATIENCE, piped, until

from geopipe.cli import main
from geopipe.errors import GeopipeError, MachineError, SettingsError
from geopipe.monitoring.database import store

GEOPIPE = [sys.executable, "-c", "from geopipe.cli.main import main; main()", "monitor"]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
COMMANDS = ("runs", "watch", "logs", "metrics", "events", "errors")


@pytest.fixture(scope="module")
def runs(monitor_dsn: str) -> dict[str, str]:
    return fill(monitor_dsn)


@pytest.fixture(autouse=True)
def address(monitor_dsn: str, runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database of these runs, and a home without records of others: a command delivers what is there."""
    monkeypatch.setenv("GEOPIPE_MONITORING_DSN", monitor_dsn)
    monkeypatch.setenv("GEOPIPE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "")  # a terminal's width is the terminal's own


def ask(*args: str) -> Result:
    """The command in this process, without a terminal. Errors of geopipe are raised."""
    outcome = CliRunner().invoke(main.cli, ["monitor", *args], standalone_mode=False)
    if isinstance(outcome.exception, GeopipeError) or (
        outcome.exception and not isinstance(outcome.exception, SystemExit)
    ):
        raise outcome.exception
    return outcome


def document(*args: str) -> Any:
    return json.loads(ask(*args, "--json").stdout)


def lines(*args: str) -> list[str]:
    return ask(*args).stdout.splitlines()


def process(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [*GEOPIPE, *args], capture_output=True, text=True, timeout=PATIENCE, check=False, env={**os.environ, **env}
    )


class Terminal:
    """The command on a terminal of some size."""

    def __init__(self, *args: str, columns: int = 80, rows: int = 24) -> None:
        self.here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        env |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen([*GEOPIPE, *args], stdin=there, stdout=there, stderr=there, env=env)
        os.close(there)
        self.bytes = b""

    def read(self, until: Callable[[str], bool] = lambda text: False) -> str:
        """What was written until it ended, or until `until` holds."""
        end = time.monotonic() + PATIENCE
        while not until(self.text):
            assert time.monotonic() < end, self.text
            if select.select([self.here], [], [], 0.1)[0]:
                try:
                    got = os.read(self.here, 65536)
                except OSError:  # it has ended
                    break
                if not got:
                    break
                self.bytes += got
        return self.text

    @property
    def text(self) -> str:
        return self.bytes.decode("utf-8", "replace").replace("\r\n", "\n")

    @property
    def screens(self) -> list[list[str]]:
        """The lines of each drawing, without colours. While it is at work the last one may be half there."""
        parts = re.split(r"(?:\x1b\[1A|\x1b\[2K|\r)+", self.text)
        shown = [re.sub(r"\x1b\[\?25[hl]", "", COLOURS.sub("", part)).strip("\n") for part in parts]
        return [part.split("\n") for part in shown if part]

    def end(self) -> int:
        self.read()
        os.close(self.here)
        return self.process.wait(timeout=PATIENCE)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*args: str, **how: int) -> Terminal:
        opened.append(Terminal(*args, **how))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def young(monitor_dsn: str, number: int, name: str = "young", now: float | None = None) -> Source:
    """A run that has just begun."""
    now = now or time.time()
    run = Source(new_id(now - 20 * 86400, number))
    run.state(now - 20, "running", name=name, output="/data/young", totals={"read": 10, "write": 10})
    run.progress(now - 10, "read", 4, 4000).progress(now - 5, "write", 2, 2000)
    run.metric(now - 5, "seconds_left", 80.0, "s", stage="run")
    run.write(monitor_dsn)
    return run


def seconds(shown: re.Match[str]) -> int:
    """Minutes and seconds as a number."""
    return int(shown[1]) * 60 + int(shown[2])


# ---------------------------------------------------------------- help, errors


def test_help_loads_neither_rich_nor_psycopg2() -> None:
    code = (
        "import sys, click.testing, geopipe.cli.main as c\n"
        "for args in (['--help'], ['monitor', '--help'], ['monitor', 'logs', '--help']):\n"
        "    done = click.testing.CliRunner().invoke(c.cli, args)\n"
        "    assert done.exit_code == 0 and ('monitor' in done.output)\n"
        "assert not {'rich', 'psycopg2', 'ray', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_watching_loads_no_engine_and_no_rasters() -> None:
    code = (
        "import sys, geopipe.cli.main as c\n"
        "c.cli.main(['monitor', 'watch', 'demo'], standalone_mode=False)\n"
        "assert not {'ray', 'numpy', 'pandas', 'rasterio', 'pyarrow'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_database_each_command_ends_with_one_message_and_3(command: str, tmp_path: Any) -> None:
    done = process(command, GEOPIPE_MONITORING_DSN="", GEOPIPE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("hint:") == 1
    assert "Traceback" not in done.stderr


def test_a_wrong_password_is_one_message_that_does_not_repeat_it(monitor_dsn: str) -> None:
    wrong = monitor_dsn.replace(postgres.PASSWORD, "wrong-7b1c")
    done = process("watch", GEOPIPE_MONITORING_DSN=wrong)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert "wrong-7b1c" not in done.stderr


def test_an_unknown_run_exits_with_2_and_names_others() -> None:
    done = process("watch", "wrold")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no run 'wrold'\n  hint: world?  The last runs are ")


def test_a_regular_expression_that_is_none_is_one_message() -> None:
    with pytest.raises(SettingsError, match="--grep: invalid regular expression"):
        ask("logs", "demo", "--grep", "(")


@pytest.mark.parametrize("age", ["", "2", "h", "-2h", "2 hours", "9e9h", "99999999999h", "999999w"])
def test_an_age_that_is_none_is_refused_with_an_example(age: str) -> None:
    done = CliRunner().invoke(main.cli, ["monitor", "runs", "--since", age])
    assert done.exit_code == 2
    assert "45s, 30m, 2h, 3d or 1w" in done.output


# ---------------------------------------------------------------- JSON


RUN = {
    *(
        "run_id",
        "name",
        "state",
        "stale",
        "request",
        "attempt",
        "output",
        "plan_hash",
        "ray_job_id",
        "created_at",
        "started_at",
    ),
    *("heartbeat_at", "finished_at", "exit_code", "error", "totals", "done", "seconds", "share"),
    "seconds_since_heartbeat",
}
NAMED = {"run_id", "name", "state", "stale"}
LOG = {
    *("ts", "source", "seq", "level", "logger", "message", "stage", "layer", "tile", "worker", "node", "attempt"),
    *("traceback", "extra"),
}
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_json_of_runs_has_all_of_a_run_and_times_in_utc(runs: dict[str, str]) -> None:
    shown = document("runs")
    assert [set(run) for run in shown] == [RUN] * 5
    assert [run["run_id"] for run in shown][:2] == [runs["running"], runs["completed"]]
    assert [run["stale"] for run in shown] == [False, False, True, False, False]
    assert all(UTC.fullmatch(run["created_at"]) for run in shown)
    assert document("runs", "--name", "nothing") == []


def test_json_of_logs_events_errors_and_metrics_says_which_run_they_are_of(runs: dict[str, str]) -> None:
    result = {what: document(what, "world") for what in ("logs", "events", "errors", "metrics")}
    assert all(set(one["run"]) == NAMED and one["run"]["run_id"] == runs["running"] for one in result.values())
    assert result["logs"]["total"] == len(result["logs"]["logs"]) == 46
    assert {frozenset(log) for log in result["logs"]["logs"]} == {frozenset(LOG)}
    assert UTC.fullmatch(result["logs"]["logs"][0]["ts"])
    assert [event["name"] for event in result["events"]["events"]] == ["plan_made", "run_started", "layer_skipped"]
    assert result["events"]["events"][0]["detail"] == {"strategy": "aligned", "tiles": 580}
    assert set(result["errors"]["causes"][0]) == {
        *("cause", "count", "first_ts", "last_ts", "example", "stages", "layers", "traceback")
    }
    assert result["errors"]["error"] is None
    assert set(result["metrics"]["series"][0]) == {
        *("name", "node", "stage", "unit", "count", "low", "mean", "high", "last", "points")
    }
    assert UTC.fullmatch(result["metrics"]["first_ts"])


def test_json_of_watch_is_a_line_for_each_look() -> None:
    (line,) = lines("watch", "demo", "--json")
    look = json.loads(line)
    assert set(look) == NAMED | {
        *("run", "seconds_left", "stages", "nodes", "errors", "warnings", "last_errors"),
    }
    assert set(look["run"]) == RUN
    assert set(look["stages"][0]) == {
        *("stage", "tiles", "of", "cells", "rows", "bytes", "seconds", "cells_per_second")
    }


def test_json_escapes_what_a_terminal_would_obey(runs: dict[str, str]) -> None:
    for command in COMMANDS[2:]:
        outcome = ask(command, runs["hostile"], "--json").stdout
        assert outcome.isascii()
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", outcome)
    assert document("logs", runs["hostile"])["logs"][0]["traceback"] == HOSTILE


# ---------------------------------------------------------------- runs


def test_runs_without_a_terminal_are_plain_lines_that_are_never_cut() -> None:
    head, *rest = lines("runs")
    reasons = [line for line in rest if line.startswith("  ")]
    assert any("elevation.tif: band 1 has no CRS" in line for line in reasons), "why a run has failed"
    rest = rest[: -len(reasons)]
    assert head.split() == ["run", "name", "state", "age", "took", "done", "output"]
    assert [line.split()[0] for line in rest] == [run["run_id"][:13] for run in document("runs")]
    assert rest[0].split()[1:3] == ["world", "running"]
    assert rest[0].endswith("64%  /data/runs/2026/world-100m/output")
    assert re.search(r"soils +stale +2 h +(1:0|59:)\d[:\d]*\d +30%  /data/soils", rest[2])
    assert "[red]markup[/red] :boom:" in rest[4]


def test_runs_can_be_chosen_by_name_state_age_and_number(runs: dict[str, str]) -> None:
    def chosen(*args: str) -> list[str]:
        return [run["run_id"] for run in document("runs", *args)]

    assert chosen("--name", "d?mo") == [runs["completed"], runs["failed"]]
    assert chosen("--state", "stale") == [runs["stale"]]
    assert chosen("--state", "failed", "--state", "running") == [runs["running"], runs["failed"]]
    assert chosen("--since", "1h") == [runs["running"], runs["completed"]]
    assert len(chosen("--since", "1w")) == 5
    assert chosen("--limit", "1") == [runs["running"]]
    assert ask("runs", "--limit", "1").stderr == "these are the newest 1; --limit 0 shows all\n"
    assert ask("runs", "--limit", "0").stderr == ""
    assert ask("runs", "--name", "no").stderr == "no runs match\n"


# ---------------------------------------------------------------- logs


def test_each_option_of_logs_has_its_effect() -> None:
    assert len(lines("logs", "world")) == 46
    assert len(lines("logs", "world", "--level", "error")) == 14
    assert len(lines("logs", "world", "--layer", "srtm")) == 12
    assert len(lines("logs", "world", "--stage", "merge")) == 31
    assert len(lines("logs", "world", "--grep", "wave 2[0-9]")) == 10
    assert len(lines("logs", "world", "--since", "1d")) == 46
    assert lines("logs", "soils", "--since", "1h") == []
    assert len(lines("logs", "world", "--level", "ERROR", "--limit", "3")) == 3
    assert len(lines("logs", "world", "--layer", "srtm", "--limit", "1", "--traceback")) == 4
    assert len(lines("logs", "world", "--grep", "OSError", "--traceback")) == 12 * 4


def test_the_last_of_thousands_of_logs_are_shown_and_the_rest_is_counted() -> None:
    outcome = ask("logs", "demo")
    assert [line.split()[4] for line in outcome.stdout.splitlines()] == [str(n) for n in range(2800, 3000)]
    assert outcome.stderr == "the last 200 of 3,000 records; --limit 0 shows all\n"
    outcome = ask("logs", "demo", "--limit", "0")
    assert len(outcome.stdout.splitlines()) == 3000
    assert outcome.stderr == ""


def test_a_record_says_when_where_and_how_grave() -> None:
    (line,) = lines("logs", "world", "--stage", "write")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d warning  tile 17 was written twice  \[stage=write tile=17\]", line
    )


def test_times_are_local_for_people_and_utc_in_json(runs: dict[str, str]) -> None:
    stamp = document("logs", runs["failed"])["logs"][0]["ts"]
    outcome = process("logs", runs["failed"], TZ="Asia/Kathmandu").stdout
    hour, minute = int(stamp[11:13]), int(stamp[14:16])
    local = (hour * 60 + minute + 5 * 60 + 45) % 1440
    assert outcome[11:16] == f"{local // 60:02}:{local % 60:02}"


def test_follow_shows_what_comes_late_and_ends_with_the_run(monitor_dsn: str) -> None:
    run = young(monitor_dsn, 101)
    late = Source(run.run_id, "worker")
    run.log(time.time(), "first").write(monitor_dsn)
    with piped([*GEOPIPE, "logs", run.run_id, "--follow", "--level", "info", "--json"]) as following:
        shown = [following.line()]
        late.log(time.time() - 3600, "old, and late").log(time.time(), "noise", "DEBUG").write(monitor_dsn)
        shown.append(following.line())
        with closing(psycopg2.connect(monitor_dsn)) as connected:
            # The follower reads the end of the run, and then waits for its logs, until the last of them is there.
            connected.cursor().execute("LOCK TABLE pipeline_logs")
            run.state(time.time(), "completed").write(monitor_dsn)
            waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'pipeline_logs'::regclass"
            until(lambda: query(monitor_dsn, waiting))
            late.log(time.time(), "after the end", "ERROR", traceback="Traceback\n  of it")
            store.write(connected, late.records)
        _, out, err = following.rest()
    records = [json.loads(line) for line in [*shown, *out.splitlines()]]
    assert [record["message"] for record in records] == ["first", "old, and late", "after the end"]
    assert all(set(record) == LOG | {"run_id"} for record in records)
    assert err == f"run {run.run_id[:13]} is completed\n"
    again = ask("logs", run.run_id, "-f", "--traceback", "--limit", "1").stdout.splitlines()
    assert [line.strip() for line in again[1:]] == ["Traceback", "of it"]
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


# ---------------------------------------------------------------- metrics, events, errors


def test_metrics_are_plots_with_four_numbers_for_each_node_and_stage() -> None:
    rows = lines("metrics", "world")
    heads = [line.split()[0] for line in rows if not line.startswith(" ")]
    assert heads == ["cpu", "memory", "throughput", "disk"]
    assert re.search(r"\d\d:\d\d:\d\d +\d\d:\d\d:\d\d +min +mean +max +last$", rows[0])
    assert re.fullmatch(r"  worker-1  processors +[▁▂▃▄▅▆▇█]{72}( +\d+%){4}", rows[1])
    assert sum("machine of 15.4G" in line for line in rows) == 2
    assert [line.split()[:3] for line in lines("metrics", "world", "--type", "throughput")[1:]] == [
        ["all", stage, "cells/s"] for stage in ("read", "merge", "write")
    ]
    assert {line.split()[1] for line in lines("metrics", "world", "--type", "memory")[1:]} == {
        *("processes", "machine", "object", "spilled")
    }
    assert lines("metrics", "world", "--type", "cpu", "--since", "1s") == ["no metrics of cpu"]
    assert lines("metrics", "demo") == ["no metrics"]


def test_what_is_no_unicode_terminal_gets_ascii(runs: dict[str, str]) -> None:
    for args in (["metrics", "world"], ["runs"], ["logs", runs["hostile"]], ["watch", "demo"], ["events", "world"]):
        done = process(*args, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    assert re.search(r"worker-1  processors +[_.\-:=+*#]{72}", process("metrics", PYTHONIOENCODING="ascii").stdout)


def test_events_are_lines_with_their_details() -> None:
    rows = lines("events", "world")
    assert [re.sub(r"^\S+ \S+ +", "", line) for line in rows] == [
        "plan_made      tiles=580 strategy=aligned",
        "run_started",
        "layer_skipped  layer=wells  reason=no such file: wells.csv",
    ]
    assert len(lines("events", "world", "--limit", "2")) == 2
    assert ask("events", "world", "--limit", "2").stderr == "these are the last 2; --limit 0 shows all\n"
    assert ask("events", "world", "--since", "1m").stderr == "no events\n"


def test_errors_tell_how_often_where_an_example_and_on_request_a_traceback() -> None:
    rows = lines("errors", "world")
    assert re.match(r" +12 x  ", rows[0])
    assert rows[1].endswith("   stage read   layer srtm")
    assert rows[2].strip() == "such as: srtm.tif: band 1, block 0: not readable (TIFFReadEncodedTile failed)"
    assert "Traceback" not in "".join(rows)
    rows = lines("errors", "world", "--traceback")
    assert rows[3].strip() == "Traceback (most recent call last):"
    assert "no traceback was recorded" in "".join(rows)
    assert lines("errors", "soils") == ["no errors"]


def test_errors_of_a_failed_run_begin_with_why_it_failed(runs: dict[str, str]) -> None:
    assert lines("errors", runs["failed"])[:2] == [
        "SourceError: elevation.tif: band 1 has no CRS",
        "  hint: give layers.crs",
    ]


# ---------------------------------------------------------------- watch


@pytest.mark.parametrize(("what", "code"), [("completed", 0), ("failed", 1), ("hostile", 1)])
def test_watching_a_run_that_has_ended_says_so_and_exits_by_its_state(
    runs: dict[str, str], what: str, code: int
) -> None:
    done = process("watch", runs[what])
    assert done.returncode == code
    assert done.stderr == ""
    assert ("completed", "failed", "cancelled")[("completed", "failed", "hostile").index(what)] in done.stdout


def test_nobody_watches_a_run_that_has_paused_for_ever(monitor_dsn: str) -> None:
    """The attempt that goes on with it is another run."""
    run = young(monitor_dsn, 112).state(time.time(), "paused", exit_code=75)
    run.write(monitor_dsn)
    done = process("watch", run.run_id)
    assert (done.returncode, done.stderr) == (75, "")
    assert "paused" in done.stdout
    assert "is paused" in process("logs", run.run_id, "--follow").stderr
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_watching_ends_when_the_state_changes_and_errors_are_told_at_once(monitor_dsn: str) -> None:
    now = time.time()
    run = young(monitor_dsn, 102, now=now)
    with piped([*GEOPIPE, "watch", run.run_id, "--every", "1000"]) as watching:
        rows = [watching.line()]
        elapsed = time.time() - now
        run.log(time.time(), "one \x1b[31mgood\x1b[0m error", "ERROR", stage="read", layer="a").write(monitor_dsn)
        rows.append(watching.line())
        run.progress(now, "write", 8, 8000).state(now + 5, "failed", exit_code=1).write(monitor_dsn)
        code, out, _ = watching.rest()
    rows += out.splitlines()
    assert code == 1
    shown = re.search(r"running    read 4/10  write 2/10  \S+ cells/s  (\d):(\d\d) left$", rows[0])
    assert shown
    assert 74 - elapsed < seconds(shown) <= 76
    assert rows[1].endswith("error      read a: one \\x1b[31mgood\\x1b[0m error")
    assert re.search(r"failed     read 4/10  write 10/10  in 0:25  1 error$", rows[2])
    assert len(rows) == 3, "in a thousand seconds no line more"
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_lines_come_every_so_often(monitor_dsn: str) -> None:
    run, start = young(monitor_dsn, 103), time.monotonic()
    with piped([*GEOPIPE, "watch", run.run_id, "--every", "1", "--json"]) as watching:
        content = [watching.line() for _ in range(4)]
        assert time.monotonic() - start > 3, "a second between two lines"
        run.state(time.time(), "cancelled").write(monitor_dsn)
        content += watching.rest()[1].splitlines()
    states = [json.loads(line)["state"] for line in content]
    assert states == ["running"] * (len(states) - 1) + ["cancelled"]
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_a_silent_run_and_a_request_are_told(monitor_dsn: str) -> None:
    run, start = young(monitor_dsn, 104), time.monotonic()
    settle(
        monitor_dsn,
        "UPDATE pipeline_runs SET request = 'cancel', heartbeat_at = now() - interval '2 min' "
        f"WHERE run_id = '{run.run_id}'",
    )
    with piped([*GEOPIPE, "watch", run.run_id]) as watching:
        state, silence, request = (watching.line() for _ in range(3))
        elapsed = time.monotonic() - start
        run.state(time.time(), "cancelled").write(monitor_dsn)
        assert watching.rest()[0] == 1
    assert "stale" in state
    shown = re.match(r"not heard of for (\d):(\d\d): its driver may be dead", silence)
    assert shown
    assert 119 <= seconds(shown) <= 121 + elapsed
    assert request == "asked to cancel"
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


@pytest.mark.parametrize("command", [["watch"], ["logs", "--follow"]])
def test_a_restart_of_postgres_is_told_and_survived(
    postgres_server: postgres.Server, monitor_dsn: str, command: list[str]
) -> None:
    run = young(monitor_dsn, 105 + len(command)).log(time.time(), "before the restart", "ERROR")
    run.write(monitor_dsn)
    with piped([*GEOPIPE, *command, run.run_id]) as watching:
        while "before the restart" not in (line := watching.line()):
            assert line
        postgres_server.control("stop")
        while not (away := watching.err.readline()).startswith("no answer, trying again: "):
            assert "FATAL:  terminating connection" in away, "libpq itself, if it was just connecting"
        postgres_server.control("start")
        run.log(time.time(), "after the restart", "ERROR").state(time.time(), "completed").write(monitor_dsn)
        code, out, err = watching.rest()
    assert code == 0
    assert err.count("the database is back\n") == 1
    assert postgres.PASSWORD not in away + err
    assert "after the restart" in out
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


@pytest.mark.parametrize(("what", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_watching_and_says_that_the_run_goes_on(what: int, code: int) -> None:
    with piped([*GEOPIPE, "watch", "world"]) as watching:
        assert "running" in watching.line()
        watching.process.send_signal(what)
        ended, out, err = watching.rest()
    assert (ended, err) == (code, "stopped watching; the run goes on\n")
    assert "Traceback" not in out


# ---------------------------------------------------------------- terminals


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("args", [["runs"], ["logs", "world"], ["metrics", "world"], ["events"], ["errors", "world"]])
def test_no_line_is_wider_than_the_terminal(
    terminal: Callable[..., Terminal], args: list[str], columns: int, runs: dict[str, str]
) -> None:
    seen = terminal(*args, columns=columns)
    seen.read()
    assert seen.end() == 0
    shown = COLOURS.sub("", seen.text)
    assert "\x1b[" in seen.text  # in colours
    assert "\x1b" not in shown
    assert max(cell_len(line) for line in shown.splitlines()) <= columns


def test_watch_fits_80_by_24_and_draws_over_itself(terminal: Callable[..., Terminal]) -> None:
    seen = terminal("watch", "world")
    seen.read(lambda text: text.count("spilled") >= 3)
    screen = seen.screens[-2]
    seen.process.send_signal(signal.SIGINT)
    seen.read()
    assert seen.end() == 130
    assert "stopped watching; the run goes on" in seen.text
    assert seen.text.count("\x1b[?25h") == 1  # the cursor is back
    assert max(cell_len(line) for line in screen) <= 80
    assert len(screen) <= 24
    text = "\n".join(screen)
    assert re.match(r"world  [0-9a-f]{8}-[0-9a-f]{4}  running for \d+:\d\d, about \d+:\d\d left\n  /data/runs", text)
    assert re.search(r"  read   ━+.* 68%  1,980/2,900 +\S+( M)? cells/s", text), text
    assert re.search(r"  node +cpu  processes +memory  store  spilled  disk free\n  worker-1 ", text)
    assert re.search(r"  14 errors, 1 warning\n(  \d\d:\d\d:\d\d .*\n?)+$", text)


def test_watch_of_many_nodes_gives_way_to_the_height_of_the_terminal(
    terminal: Callable[..., Terminal], monitor_dsn: str
) -> None:
    now = time.time()
    run = young(monitor_dsn, 110, "cluster")
    for node in range(40):
        run.metric(now, "rss_bytes", node * 1e9, "bytes", node=f"node-{node:02}")
    for n in range(10):
        run.log(now, f"error {n}", "ERROR")
    run.write(monitor_dsn)
    seen = terminal("watch", "cluster", rows=20)
    seen.read(lambda text: text.count("spilled") >= 2)
    screen = seen.screens[-2]
    assert len(screen) <= 20
    assert any("node-39" in line for line in screen)  # the heaviest stay
    assert any(re.fullmatch(r"  and \d+ more *", line) for line in screen)
    assert "error 9" in "".join(screen)
    run.state(time.time(), "completed").write(monitor_dsn)
    seen.read()
    assert seen.end() == 0
    assert "completed in" in seen.screens[-1][0]
    settle(monitor_dsn, f"DELETE FROM pipeline_runs WHERE run_id = '{run.run_id}'")


def test_a_narrow_terminal_has_fewer_columns_and_no_torn_ones(terminal: Callable[..., Terminal]) -> None:
    seen = terminal("watch", "world", columns=50)
    seen.read(lambda text: text.count("processes") >= 2)
    screen = seen.screens[-2]
    assert max(cell_len(line) for line in screen) <= 50
    assert any(re.fullmatch(r"  node +cpu  processes +memory *", line) for line in screen)


@pytest.mark.parametrize("args", [[], ["--traceback"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_text_reaches_no_terminal(
    terminal: Callable[..., Terminal], runs: dict[str, str], command: str, args: list[str]
) -> None:
    if args and command not in ("logs", "errors"):
        pytest.skip("has no tracebacks")
    arguments = [] if command == "runs" else [runs["hostile"]]
    plain = process(command, *arguments, *args).stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", plain)
    seen = terminal(command, *arguments, *args, columns=200)
    seen.read()
    seen.end()
    ours = re.sub(r"\x1b\[\?25[hl]|\x1b\[1A|\x1b\[2K|\r", "", COLOURS.sub("", seen.text))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", ours)
    assert "DROP TABLE" in ours
    assert "[red]markup[/red]" in ours  # was not taken for markup


def test_a_message_cannot_forge_a_record(runs: dict[str, str]) -> None:
    rows = lines("logs", runs["hostile"])
    assert len(rows) == 2
    assert rows[1].startswith(" " * 20)
    assert rows[1].strip() == "12:00:00 info     forged"


def test_an_error_of_the_server_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from geopipe.monitoring.database import queries as watching

    monkeypatch.setattr(watching, "_RUNS", "SELECT 1 / 0")
    with pytest.raises(MachineError, match="the monitor's database says: division by zero"):
        ask("runs")
