"""The keys of [analysis]: which methods look at the finished table, and with which options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geopipe.settings.fields import AsList, Names, Section, setting

MethodName = Literal["summary"]


class AnalysisSettings(Section):
    """Analyses of the finished table, as the last stage of a run. Options of a method begin with its name."""

    methods: Annotated[tuple[MethodName, ...], AsList] = ()
    """what to compute of the finished table, into output/analysis (default: nothing)"""
    columns: Names = setting((), "names of columns in quotes", ["elevation", "slope"])
    """variables to look at (default: all)"""
    nulls: Literal["drop", "mean"] = "drop"
    """rows that lack a value: left out of the method, or filled with the variable's mean"""
    seed: int = Field(0, ge=0)
    """seed of all random choices"""
    summary_bins: int = Field(50, ge=1, le=1000)
    """bars of a histogram, from the least value to the greatest"""
