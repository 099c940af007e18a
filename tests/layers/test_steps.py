"""Times and levels: what tags mean as dates, in every calendar, and which text is the one that was asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geopipe.layers.times import Place, column_label, dates, matches, places, span


@pytest.mark.parametrize("calendar", ["proleptic_gregorian", "standard", "gregorian", ""])
@pytest.mark.parametrize(
    ("unit", "pandas", "most"), [("days", "D", 80_000), ("hours", "h", 2e6), ("Minutes", "min", 1e8), ("sec", "s", 6e9)]
)
@pytest.mark.parametrize("start", ["1900-01-01", "1950-1-1 00:00:00", "1999-12-31T23:30:00Z", "1970-01-01 06:00"])
def test_dates_are_those_of_pandas(unit: str, pandas: str, most: float, start: str, calendar: str) -> None:
    offsets = np.random.default_rng(4).integers(-most // 8, most, 50)
    expected = pd.Timestamp(start.replace("1950-1-1", "1950-01-01")) + pd.to_timedelta(offsets, unit=pandas)
    result = dates([str(o) for o in offsets], f"{unit} since {start}", calendar)
    assert [pd.Timestamp(text) for text in result] == [pd.Timestamp(w).tz_localize(None) for w in expected]


@pytest.mark.parametrize(
    ("value", "units", "calendar", "text"),
    [
        ("17927", "days since 1950-01-01 00:00:00", "standard", "1999-01-31"),
        ("11139.5", "days since 1950-01-01 00:00:00", "standard", "1980-07-01T12:00"),
        ("146396", "Hour since 2001-12-31T23:00:00Z", "proleptic_gregorian", "2018-09-13T19:00"),
        ("0", "days since 2000-01-01 00:00:00 +02:00", "", "1999-12-31T22:00"),
        ("0", "days since 2000-01-01 00:00 -3", "", "2000-01-01T03:00"),
        ("90061", "seconds since 2000-01-01", "", "2000-01-02T01:01:01"),
        ("0.041666666666666664", "days since 2000-01-01", "", "2000-01-01T01:00"),  # an hour, but for rounding
        ("1e12", "ns since 2000-01-01", "", "2000-01-01T00:16:40"),
        # the first time of the NCEP reanalysis: its calendar is Julian until 1582
        ("17067072", "hours since 1-1-1 00:00:0.0", "standard", "1948-01-01"),
        ("17067072", "hours since 1-1-1 00:00:0.0", "proleptic_gregorian", "1948-01-03"),
        ("59", "days since 2000-01-01", "noleap", "2000-03-01"),
        ("59", "days since 2001-01-01", "366_day", "2001-02-29"),
        ("59", "days since 2000-01-01", "360_day", "2000-02-30"),
        ("-1", "days since 0001-01-01", "365_day", "0000-12-31"),
        ("54787.5", "days since 1850-01-01", "noleap", "2000-02-07T12:00"),
        # what has no date stays a number
        ("3.0", "months since 2000-01-01", "", "3"),
        ("19990315", "day as %Y%m%d", "", "19990315"),
        ("5", "days since yesterday", "", "5"),
        ("5", "days since 2000-01-01 or so", "", "5"),
        ("5", "days since 2000-02-31", "", "5"),
        ("5", "days since 0000-01-01", "proleptic_gregorian", "5"),
        ("-200000", "days since 1900-01-01", "standard", "-200000"),
        ("5", "days since 2000-01-01", "martian", "5"),
    ],
)
def test_a_number_as_a_date(value: str, units: str, calendar: str, text: str) -> None:
    assert dates([value], units, calendar) == [text]


def test_the_dates_of_a_file_have_one_form() -> None:
    assert dates(["0", "0.5"], "days since 2000-01-01", "") == ["2000-01-01T00:00", "2000-01-01T12:00"]
    assert dates(["0", "1"], "days since 2000-01-01", "") == ["2000-01-01", "2000-01-02"]
    assert dates(["0", "1"], "s since 2000-01-01", "") == ["2000-01-01T00:00:00", "2000-01-01T00:00:01"]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("1999-03-15", "1999-03-15", True),
        ("1999-03-15", "1999-03", True),
        ("1999-03-15", "1999", True),
        ("1999-12-15", "1999-1", False),
        ("1999-03-15", "199", False),
        ("1999-03-15", "1999-03-15T00:00", True),
        ("1999-03-15T06:00", "1999-03-15", True),
        ("1999-03-15T06:00", "1999-03-15 06:00:00Z", True),
        ("1999-03-15T06:00", "1999-03-15T06", True),
        ("1999-03-15T06:00", "1999-03-15T00", False),
        ("1999-03-15", "1999-03/1999-05", True),
        ("1999-05-31", "1999-03/1999-05", True),
        ("1999-06-01", "1999-03/1999-05", False),
        ("1999-02-28", "1999-03/1999-05", False),
        ("1999-05-31T18:00", "1999-03/1999-05-31", True),
        ("1999-03-15", "1999-03/..", True),
        ("1999-03-15", "/1999-02", False),
        ("500", "500.0", True),
        ("500", "5", False),
        ("500", "1000/500", False),
        ("500", "500/1000", True),
        ("925.5", "500/1000", True),
        ("2-HTGL", "2-htgl", True),
        ("2-HTGL", "2", False),
        ("2-HTGL", "1/3", False),
    ],
)
def test_matches(text: str, target: str, expected: bool) -> None:
    assert matches(text, target) is expected


def test_places_of_netcdf_zarr_and_grib_bands() -> None:
    tags = {
        "NETCDF_DIM_EXTRA": "{time,level}",
        "time#units": "days since 2000-01-01",
        "time#calendar": "noleap",
        "level#units": "hPa",
    }
    bands = [{"NETCDF_VARNAME": "t", "NETCDF_DIM_time": str(n), "NETCDF_DIM_level": "500.0"} for n in (0, 59)]
    assert places(tags, bands) == [Place("t", "2000-01-01", "500"), Place("t", "2000-03-01", "500")]
    assert places({}, [{"NETCDF_VARNAME": "t"}]) == [Place("t")]
    zarr = [{"DIM_time_INDEX": "0", "DIM_time_VALUE": "1", "DIM_time_UNIT": "hours since 2000-01-01"}]
    assert places({}, zarr) == [Place("", "2000-01-01T01:00", "")]
    zarr = [{"DIM_band_INDEX": "0", "DIM_band_VALUE": "red"}]
    assert places({}, zarr) == [Place("", "", "red")]
    grib = [{"GRIB_ELEMENT": "TMP", "GRIB_VALID_TIME": "951868800 sec UTC", "GRIB_SHORT_NAME": "2-HTGL"}]
    assert places({}, grib) == [Place("TMP", "2000-03-01", "2-HTGL")]
    assert places({}, [{"AREA_OR_POINT": "Area"}, {}]) == [Place(), Place()]


def test_steps_in_names_and_messages() -> None:
    assert column_label("1999-03-15") == "19990315"
    assert column_label("1999-03-15T06:30") == "19990315t0630"
    assert column_label("2-HTGL") == "2_htgl"
    assert column_label("850.5") == "850_5"
    assert span(["1999-01", "", "1999-03"]) == "1999-01/1999-03"
    assert span(["1999-01", "1999-01"]) == "1999-01"
    assert span(["", ""]) == ""
