"""The keys of [analysis]: which methods look at the finished table, and with which options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geopipe.settings.fields import AT_LEAST_ONE, AsList, Names, Section, setting

MethodName = Literal["summary", "correlation", "pca", "kmeans", "som", "autocorrelation", "regions", "gwpca"]

Lag = Annotated[int, Field(ge=1, le=64)]


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
    correlation_sample: int = Field(100_000, ge=2)
    """rows of the seeded sample whose ranks Spearman's correlations are of"""
    correlation_high: float = Field(0.95, ge=0, le=1)
    """findings name pairs of variables whose correlation is above it"""
    correlation_high_vif: float = Field(10.0, ge=1)
    """findings name variables whose variance inflation is above it"""
    pca_standardize: bool = True
    """divide each variable by its standard deviation, so that units do not matter"""
    pca_components: int | None = setting(None, AT_LEAST_ONE, 3, ge=1)
    """components that have scores (default: those that explain 95 % of the variance together)"""
    pca_scores: bool = True
    """write the scores of each cell, as columns pc1, pc2, and so on"""
    kmeans_k: int | None = setting(None, "a whole number from 2 to 1,000", 6, ge=2, le=1000)
    """number of clusters (default: from 2 to kmeans_k_max the one with the largest mean silhouette on a sample)"""
    kmeans_k_max: int = Field(10, ge=2, le=1000)
    """the largest number of clusters to try where kmeans_k is not given"""
    kmeans_sample: int = Field(100_000, ge=1)
    """rows of the seeded sample on which the centres start and settle, before all rows are read"""
    kmeans_starts: int = Field(3, ge=1)
    """starts by k-means++ on the sample; the best goes on"""
    kmeans_tolerance: float = Field(1e-4, ge=0)
    """stop when the squared ways of all centres, in standard deviations, are together no more"""
    kmeans_max_iterations: int = Field(100, ge=1)
    """passes over all rows, at most"""
    som_height: int | None = setting(None, AT_LEAST_ONE, 20, ge=1)
    """rows of nodes (default: height and width follow from the number of rows and the first two eigenvalues)"""
    som_width: int | None = setting(None, AT_LEAST_ONE, 30, ge=1)
    """nodes of a row"""
    som_epochs: int = Field(10, ge=1)
    """passes over the rows"""
    som_radius_from: float | None = setting(None, "a number above 0", 10.0, gt=0)
    """standard deviation of the neighbourhood in the first epoch, in steps between nodes (default: half a side)"""
    som_radius_to: float = Field(0.5, gt=0)
    """the same in the last epoch"""
    som_topology: Literal["rectangular", "hexagonal"] = "rectangular"
    """a node has eight neighbours, or six"""
    som_start: Literal["plane", "sample"] = "plane"
    """first nodes: on the plane of the first two principal components, or rows of a seeded sample"""
    autocorrelation_lags: Annotated[tuple[Lag, ...], AsList] = Field((1, 2, 4, 8), min_length=1)
    """distances to neighbours, in cells"""
    autocorrelation_contiguity: Literal["queen", "rook"] = "queen"
    """neighbours of a cell: in eight directions, or in four"""
    autocorrelation_weights: Literal["row", "binary"] = "row"
    """weights of a cell's neighbours: they add up to 1, or each is 1"""
    autocorrelation_pairs: int = Field(2000, ge=1, le=100_000)
    """pairs of cells in each class of distance of a variogram"""
    regions_method: Literal["skater", "maxp"] = "skater"
    """skater: regions_k regions; maxp: as many as can be with enough rows each"""
    regions_k: int = Field(10, ge=2, le=1000)
    """number of regions of skater"""
    regions_floor: float = Field(0.02, gt=0, le=0.5)
    """share that a region has at least: of the coarse cells (skater), or of the rows (maxp)"""
    regions_cells: int | None = setting(None, "a whole number from 4 to 10,000", 1000, ge=4, le=10_000)
    """coarse cells at most (default: 2,000, or 400 for maxp, which takes minutes for more)"""
    gwpca_bandwidth: int | None = setting(None, AT_LEAST_ONE, 100, ge=1)
    """nearest coarse cells that count at a place (default: the number with the least cross-validated error)"""
    gwpca_components: int = Field(2, ge=1)
    """components whose loadings and explained variance are written"""
    gwpca_cells: int = Field(2000, ge=4, le=5000)
    """coarse cells at most"""
