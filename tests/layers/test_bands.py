"""Which bands of a file become columns: by number, description or words of it, and what is refused."""

from __future__ import annotations

import pytest
from helpers import header

from geopipe.errors import SourceError
from geopipe.layers import bands
from geopipe.layers.header import Band
from geopipe.layers.layer import Layer

NAMES = ["B04 (665 nm)", "B05 (705 nm)", "Near-infrared", "nir", "B8", "B8A", "", "red edge"]


@pytest.mark.parametrize(
    ("expected", "index"),
    [
        (2, 2),
        ("b04 (665 NM)", 1),
        ("B04", 1),
        ("665", 1),
        ("705 nm", 2),
        ("infrared", 3),
        ("NIR", 4),
        ("B8", 5),  # and not B8A
        ("b8a", 6),
        ("red", 8),
    ],
)
def test_a_band_by_its_description_or_words_of_it(expected: int | str, index: int) -> None:
    source = header(*(Band(n + 1, "uint8", description=name) for n, name in enumerate(NAMES)))
    assert bands.named(Layer("a", ()), source, expected).index == index


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ("nm", r"'nm' may be several bands of /data/a\.tif: 1 \(B04 \(665 nm\)\), 2 \(B05 \(705 nm\)\)"),
        ("B0", "has no band 'B0'; it has 1 "),  # the beginning of a word is none
        ("66", "has no band '66'"),
        ("", "has no band ''"),
        (9, "has no band 9"),
    ],
)
def test_a_doubtful_band_is_refused_with_the_candidates(expected: int | str, message: str) -> None:
    source = header(*(Band(n + 1, "uint8", description=name) for n, name in enumerate(NAMES)))
    with pytest.raises(SourceError, match=f"layer a: .*{message}"):
        bands.named(Layer("a", ()), source, expected)


def test_two_bands_of_one_description_are_not_told_apart_by_it() -> None:
    source = header(Band(1, "uint8", description="red"), Band(2, "uint8", description="Red"))
    with pytest.raises(SourceError, match=r"'red' may be several bands"):
        bands.named(Layer("a", ()), source, "red")


def test_bands_of_other_types_are_not_reduced() -> None:
    mixed = header(Band(1, "uint8"), Band(2, "int16"))
    with pytest.raises(SourceError, match="the bands to reduce have different types: 1 uint8, 2 int16"):
        bands.of_file(Layer("a", (), reduce="max"), mixed)
