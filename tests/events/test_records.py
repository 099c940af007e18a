"""What a run says of itself: records as lines, and how they are made by `emit`, contexts and log records."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE

from geopipe.events import logs, records
from geopipe.events.emit import context, current, emit, subscribe
from geopipe.events.records import Event, Log, Metric, Progress, State

ENVELOPE = {"seq": 7, "ts": 12.5, "worker": 4, "node": "n", "source": "n-4-1"}
RUN = {"run_id": "r", "attempt": 2}

log = logging.getLogger("geopipe.tested")


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """Everything that is emitted."""
    result: list[Any] = []
    end = subscribe(result.append)
    yield result
    end()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    logger = logging.getLogger("geopipe")
    before = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.level, logger.handlers[:], logger.propagate = before[0], before[1], before[2]
    logger.setLevel(before[0])


def envelope(body: records.Body, **where: Any) -> dict[str, Any]:
    return records.parse(records.line(body, ENVELOPE, {**RUN, **where}))


class Nameless:
    def __str__(self) -> str:
        raise RuntimeError("no name")


def test_a_line_carries_its_envelope_and_where_in_the_run_it_was_made() -> None:
    text = records.line(Event("done", {"a": 1}), ENVELOPE, {**RUN, "stage": "read", "layer": "dem", "tile": 3, "x": 1})
    assert text.startswith('{"seq": 7, ')
    assert text.endswith("}\n")
    where = {"stage": "read", "layer": "dem", "tile": 3}
    expected = {**ENVELOPE, **RUN, **where, "kind": "event", "name": "done", "detail": {"a": 1}}
    assert records.parse(text) == expected


def test_what_is_not_known_is_left_out_and_zero_is_known() -> None:
    result = envelope(Log("INFO", "geopipe", ""), tile=0, layer=None)
    assert result == {**ENVELOPE, **RUN, "kind": "log", "level": "INFO", "logger": "geopipe", "message": "", "tile": 0}


def test_the_stage_of_progress_is_its_own_whatever_the_context_says() -> None:
    assert envelope(Progress("read", 1, 2, 0.5), stage="run")["stage"] == "read"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (Path("/a/b"), "/a/b"),
        (b"\xff", "b'\\xff'"),
        (10**30, 10**30),
        (10**5000, hex(10**5000)),
        (-(10**5000), hex(-(10**5000))),
        (np.int64(5), 5),
        (np.uint8(200), 200),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.float32("nan"), "nan"),
        (np.bool_(True), True),
        (np.longdouble(0.5), "0.5"),
        (np.str_("a"), "a"),
        ("a\nb\r\u2028\x00\x85", "a\nb\r\u2028\x00\x85"),
        ("\udcff\ud800", "\udcff\ud800"),
        ((1, None, {"b": {2}}), [1, None, {"b": [2]}]),
        ({1: 2, None: 3}, {"1": 2, "None": 3}),
        (Nameless(), "<Nameless>"),
        (ValueError("x"), "x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_odd_values_become_a_line_of_json_and_come_back(value: Any, expected: Any) -> None:
    text = records.line(Event("odd", {"value": value}), ENVELOPE, RUN)
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert "NaN" not in text
    result = records.parse(text)["detail"]["value"]
    assert result == expected
    assert type(result) is type(expected)


def test_counts_of_numpy_stay_numbers_that_can_be_added() -> None:
    result = envelope(Progress("read", np.int64(1), np.uint32(9), np.float32(0.5), np.int16(2)), tile=np.int64(4))
    assert (result["tiles"], result["cells"], result["seconds"], result["rows"], result["tile"]) == (1, 9, 0.5, 2, 4)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary(max_size=8)
    | st.builds(Path, st.text("ab/", max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(detail=st.dictionaries(st.text(max_size=5), values, max_size=4), layer=st.text(max_size=10))
def test_any_detail_is_one_line_that_strict_json_reads_back(detail: dict[str, Any], layer: str) -> None:
    text = records.line(Event("any", detail), ENVELOPE, {**RUN, "layer": layer})
    assert text.count("\n") == 1
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    result = records.parse(text)
    assert result["detail"] == records.plain(detail)
    assert result["layer"] == layer


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_what_is_no_record_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        records.parse(text)


@pytest.mark.parametrize(
    "change",
    [{"seq": "7"}, {"seq": None}, {"source": 1}, {"ts": "x"}, {"run_id": None}, {"tiles": "1"}, {"seconds": None}],
)
def test_a_record_of_wrong_types_is_none(change: dict[str, Any]) -> None:
    good = json.loads(records.line(Progress("read", 1, 1, 0.1), ENVELOPE, RUN))
    records.parse(json.dumps(good))
    with pytest.raises(ValueError, match=r"no record|without numbers"):
        records.parse(json.dumps(good | change))


@pytest.mark.parametrize("cut", [1, 20, -3, -2])
def test_a_torn_line_is_no_record(cut: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        records.parse(records.line(Event("a"), ENVELOPE, RUN)[:cut])


def test_endless_nesting_is_no_record() -> None:
    with pytest.raises(ValueError, match="no record"):
        records.parse("[" * 200_000)


def test_emit_never_raises_and_tells_the_other_sinks(heard: list[Any]) -> None:
    def broken(body: records.Body) -> None:
        raise RuntimeError(body)

    first, last = subscribe(broken), subscribe(heard.append)
    emit(Event("a"))
    first()
    last()
    assert heard == [Event("a")] * 2


def test_a_sink_that_has_left_hears_nothing_and_may_leave_twice() -> None:
    result: list[Any] = []
    end = subscribe(result.append)
    end()
    end()
    emit(Event("a"))
    assert result == []


def test_a_signal_inside_a_sink_is_not_swallowed(heard: list[Any]) -> None:
    def interrupted(body: records.Body) -> None:
        raise KeyboardInterrupt

    end = subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        emit(Event("a"))
    end()
    emit(Event("b"))  # and the next one is heard again
    assert heard == [Event("a"), Event("b")]


def test_what_a_sink_says_itself_does_not_come_back_to_it_for_ever(heard: list[Any]) -> None:
    calls: list[Any] = []

    def talkative(body: records.Body) -> None:
        calls.append(body)
        log.warning("one")
        log.warning("two")
        emit(Event("three"))
        raise RuntimeError

    ends = subscribe(talkative), logs.record_from_now_on()
    emit(Event("a"))
    log.warning("b")
    for end in ends:
        end()
    assert calls == heard
    assert [getattr(x, "name", None) or x.message for x in heard] == ["a", "b"]


def test_other_threads_are_heard_while_a_sink_is_at_work(heard: list[Any]) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(body: records.Body) -> None:
        if body == Event("slow"):
            inside.set()
            go.wait(PATIENCE)

    end = subscribe(slow)
    thread = threading.Thread(target=emit, args=[Event("slow")])
    thread.start()
    assert inside.wait(PATIENCE)
    emit(Event("other"))
    go.set()
    thread.join()
    end()
    assert heard == [Event("slow"), Event("other")]


def test_contexts_add_up_and_end() -> None:
    before = dict(current())
    with context(run_id="r", stage="run"), context(stage="read", tile=3):
        assert current() == {**before, "run_id": "r", "stage": "read", "tile": 3}
    assert current() == before


def test_a_context_ends_where_its_body_fails() -> None:
    with pytest.raises(KeyError), context(layer="a"):
        raise KeyError
    assert "layer" not in current()


@pytest.mark.parametrize("shown", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_logs_from_info_on_are_records_whatever_the_terminal_shows(shown: str, heard: list[Any], capsys: Any) -> None:
    logs.configure_logging(shown, "text")
    end = logs.record_from_now_on()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("said %s", level)
    end()
    log.critical("late")
    expected = ["INFO", "WARNING", "ERROR", "CRITICAL"]
    assert [x.level for x in heard] == (["DEBUG"] if shown == "DEBUG" else []) + expected
    assert heard[-1] == Log("CRITICAL", "geopipe.tested", "said critical")
    seen = capsys.readouterr().err
    names = ["DEBUG", *expected]
    assert [name for name in names if f"said {name.lower()}" in seen] == names[names.index(shown) :]


def test_logs_are_records_where_nobody_has_configured_logging(heard: list[Any]) -> None:
    logger = logging.getLogger("geopipe")
    logger.handlers[:], logger.level = [], logging.NOTSET
    end = logs.record_from_now_on()
    log.info("a")
    end()
    assert [x.message for x in heard] == ["a"]
    assert (logger.level, logger.handlers) == (logging.NOTSET, [])


def test_recording_hides_nothing_from_a_program_that_wants_to_see_debug() -> None:
    logger, root = logging.getLogger("geopipe"), logging.getLogger()
    logger.handlers[:] = []
    before = root.level
    logger.setLevel(logging.NOTSET)
    root.setLevel(logging.DEBUG)
    try:
        end = logs.record_from_now_on()
        assert log.isEnabledFor(logging.DEBUG)
        end()
    finally:
        root.setLevel(before)


def test_configuring_the_terminal_later_does_not_end_the_records(heard: list[Any]) -> None:
    end = logs.record_from_now_on()
    logs.configure_logging("ERROR", "json")
    log.info("a")
    end()
    assert [x.message for x in heard] == ["a"]
    assert len(logging.getLogger("geopipe").handlers) == 1


def test_an_error_comes_with_its_traceback(heard: list[Any]) -> None:
    end = logs.record_from_now_on()
    try:
        raise KeyError("lost\ud800")
    except KeyError:
        log.exception("it failed")
    end()
    assert heard[0].traceback.splitlines()[0] == "Traceback (most recent call last):"
    assert "KeyError: 'lost" in heard[0].traceback
    assert envelope(heard[0])["traceback"] == heard[0].traceback


def test_a_log_whose_arguments_do_not_fit_does_not_stop_who_logs(
    heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.getLogger("geopipe")
    logger.handlers[:], logger.propagate = [], False
    end = logs.record_from_now_on()
    log.info("%d", "no number")
    log.info("next")
    end()
    assert [x.message for x in heard] == ["next"]


def test_numbers_of_a_performance_log_are_its_extra(heard: list[Any]) -> None:
    end = logs.record_from_now_on()
    logs.log_performance(log, "merge", 2.0, rows=10, size=100)
    end()
    assert heard[0].extra == {"operation": "merge", "seconds": 2.0, "rows": 10, "bytes": 100, "rate": 5}


@pytest.mark.parametrize("fails", [False, True])
def test_a_stage_tells_of_its_begin_and_its_end(fails: bool, heard: list[Any]) -> None:
    stages: list[Any] = []
    end = subscribe(lambda body: stages.append(current().get("stage")))
    try:
        with logs.log_stage(log, "plan"):
            if fails:
                raise KeyError
    except KeyError:
        pass
    end()
    result = [x for x in heard if isinstance(x, Event)]
    assert [x.name for x in result] == ["stage_started", "stage_ended"]
    assert result[1].detail["outcome"] == ("failed" if fails else "done")
    assert set(stages) == {"plan"}


@settings(max_examples=20)
@given(st.sampled_from(["running", "completed"]), st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_a_state_and_a_metric_come_back(state: str, detail: dict[str, Any]) -> None:
    assert envelope(State(state, detail))["state"] == state
    assert envelope(Metric("cpu_percent", 12.5, "%"))["value"] == 12.5
