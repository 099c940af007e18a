"""Analyses as people start them: `geopipe analyze`, `gp.analyze`, and [analysis] as the last stage of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import call

import geopipe as gp
from geopipe.analysis import results
from geopipe.errors import PlanError, RunError, SettingsError


@pytest.fixture
def output(table: gp.Table, tmp_path: Path) -> Path:
    """A table of the test's own."""
    return Path(shutil.copytree(table.output, tmp_path / "output"))


def test_the_command_prints_findings_and_where_results_are(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "analyze", output)
    assert code == 0
    assert f"summary  {output}/analysis/summary\n  312,000 rows, 4 variables\n" in out
    assert results.read(output / "analysis/summary").values["rows"] == 312_000


def test_json_has_the_results_of_each_method(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "analyze", output, "--json", "--set", "summary_bins=5", "--columns", "rain")
    assert code == 0
    (one,) = json.loads(out)
    assert one["about"]["columns"] == ["rain"]
    assert len(one["values"]["variables"]["rain"]["histogram"]["counts"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "sumary"], 'did you mean methods = ["summary"]?'),
        (["--columns", "rian"], "has no variable 'rian'\n  hint: did you mean 'rain'?"),
        (["--set", "summary_bin=5"], "unknown key 'analysis.summary_bin'\n  hint: did you mean 'summary_bins'?"),
        (["--set", "summary_bins=0"], "must be a whole number from 1 to 1,000"),
        (["--methods", ""], "no method of analysis is named"),
    ],
)
def test_a_mistake_is_one_error_with_a_hint(
    arguments: list[str], message: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "analyze", output, *arguments)
    assert code == 2
    assert message in err
    assert not (output / "analysis").exists()


def test_an_output_that_is_not_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "analyze", tmp_path)
    assert code == 2
    assert f"{tmp_path} holds no finished run" in err


def test_results_in_an_object_store_are_left_to_its_run(table: gp.Table) -> None:
    from geopipe.analysis.stage import folder_of

    with pytest.raises(PlanError, match="is in an object store"):
        folder_of(gp.Table("s3://bucket/table", table.success, table.files))


# ---------------------------------------------------------------- the last stage of a run


def run(settings: dict[str, Any], output: Path, **keys: Any) -> gp.Summary:
    own = {"run.output": str(output)} | {f"analysis.{key}": value for key, value in keys.items()}
    return gp.run(settings, own, engine="local", overwrite=True, progress=False)


def test_keys_of_analysis_have_their_effect(settings: dict[str, Any], tmp_path: Path) -> None:
    done = run(settings, tmp_path / "o", methods=["summary"], columns=["rain"], nulls="mean", seed=3, summary_bins=7)
    (analysis,) = done.analyses
    about = {key: analysis.about[key] for key in ("columns", "nulls", "seed", "options")}
    assert about == {"columns": ["rain"], "nulls": "mean", "seed": 3, "options": {"bins": 7}}
    assert done.seconds["analyze"] > 0
    assert run(settings, tmp_path / "p").analyses == ()
    assert not (tmp_path / "p/analysis").exists()


def test_another_table_takes_the_results_of_the_first_with_it(settings: dict[str, Any], tmp_path: Path) -> None:
    run(settings, tmp_path / "o", methods=["summary"])
    run(settings, tmp_path / "o")
    assert not (tmp_path / "o/analysis").exists()


def test_a_column_that_no_layer_makes_is_refused_before_a_pixel_is_read(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"analysis\.columns: the table has no variable 'rian'"):
        gp.plan(settings, {"analysis.columns": ["rian"]})


def test_a_run_that_resumes_makes_the_results_that_are_missing(settings: dict[str, Any], tmp_path: Path) -> None:
    run(settings, tmp_path / "o")
    own = {"run.output": str(tmp_path / "o"), "analysis.methods": ["summary"]}
    first = gp.run(settings, own, engine="local", resume=True, progress=False)
    again = gp.run(settings, own, engine="local", resume=True, progress=False)
    assert [len(first.analyses), len(again.analyses)] == [1, 0]
    assert first.run_id == again.run_id


def test_the_table_of_a_run_whose_analysis_fails_is_finished(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geopipe.analysis.methods.summary import SummaryMethod

    def fail(*_: object) -> None:
        raise RunError("the method broke")

    monkeypatch.setattr(SummaryMethod, "prepare", fail)
    with pytest.raises(RunError, match=f"the method broke; the table is finished in {tmp_path}/o"):
        run(settings, tmp_path / "o", methods=["summary"])
    assert gp.open(tmp_path / "o").rows == 312_000
