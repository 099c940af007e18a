"""The columns that a layer makes: what its numbers mean, and the names and types of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geopipe.errors import SettingsError
from geopipe.layers.bands import columns
from geopipe.layers.header import Band
from geopipe.layers.layer import Kind, Layer, Variable
from geopipe.merge.spec import RESERVED
from geopipe.resample.methods import FRACTION, VALID, requested_methods


def variables_of(
    layer: Layer,
    kind: Kind,
    files: Sequence[Sequence[Band]],
    untouched: set[str],
    picked: set[str],
) -> tuple[Variable, ...]:
    """The columns of a layer: by band, and for each band by what the layer asks for.

    Args:
        files: the bands of each file.
        untouched: the words whose values are the source's own.
        picked: the words whose values are some of the source's own.
    """
    words = requested_methods(layer)
    plain = [word for word in words if word not in (FRACTION, VALID)]
    bases = columns(layer, files[0])
    made = []
    for index, band in enumerate(files[0]):
        base = bases[index]
        for word in words:
            if word == VALID and index > 0:
                continue  # a column per layer
            about: dict[str, Any] = {"layer": layer.name, "band": band, "index": index, "requested_method": word}
            if word == FRACTION:
                classes = layer.fractions if isinstance(layer.fractions, tuple) else ()
                made += [Variable(f"{base}_{_class_word(c, band)}", "float32", part=c, **about) for c in classes]
            elif word == VALID:
                made.append(Variable(f"{layer.name}_valid", "float32", **about))
            else:
                dtype = np.result_type(
                    *(dtype_of(kind, own[index], word in untouched, word in picked) for own in files)
                )
                name = f"{base}_{word}" if len(plain) > 1 else base
                made.append(Variable(name, str(dtype), unit=band.unit, **about))
    return tuple(made)


def _class_word(value: float, band: Band) -> str:
    """A class in a column's name, which is letters, digits and _ alone: -2 is minus2, 0.5 is 0_5."""
    own = np.dtype(band.dtype)
    stored = own.kind == "f" and band.scale == 1.0 and band.offset == 0.0
    text = str(own.type(value) if stored else value).removesuffix(".0")  # as few digits as the type needs
    return text.replace("-", "minus").replace("+", "").replace(".", "_")


def kind_of(layer: Layer, bands: Sequence[Band]) -> tuple[Kind, str]:
    """The kind of a raster layer, and who says it; refuses a reduction that makes no sense for it."""
    kind, why = told_kind(layer, bands)
    fitting = {Kind.CATEGORICAL: (None, "min", "max"), Kind.CIRCULAR: (None,)}.get(kind)
    if fitting and layer.reduce not in fitting:
        raise SettingsError(
            f"layer {layer.name}: reduce = {layer.reduce!r} makes no sense for kind = {kind.value!r} ({why})",
            f"leave reduce out{', choose min or max,' if len(fitting) > 1 else ''} or give the layer another kind",
        )
    return kind, why


def told_kind(layer: Layer, bands: Sequence[Band]) -> tuple[Kind, str]:
    """The kind that the settings or the file say, and who says it."""
    if layer.kind is not None:
        return layer.kind, "as the settings say"
    if layer.bits is not None:
        return Kind.CATEGORICAL, "bits are taken out of it"
    if bands and all(b.paletted for b in bands):
        return Kind.CATEGORICAL, "the file has a colour table"
    return Kind.CONTINUOUS, "the default"


def dtype_of(kind: Kind, band: Band, untouched: bool, picked: bool = False) -> str:
    """The column's type: the source's own where its values are kept as they are, else the float that holds them.

    Where each value is one of the source's (`picked`), whole numbers of 64 bits stay so: no float holds them.
    """
    own = np.dtype(band.dtype)
    if own.kind == "i" and band.bits == (0, 8 * own.itemsize - 1):
        own = np.dtype(f"u{own.itemsize}")  # all bits, as a number without a sign
    if kind is Kind.CIRCULAR and own == np.int8:
        own = np.dtype(np.int16)  # -10 degrees are 350
    untouched = untouched or (picked and kind is Kind.CONTINUOUS and own.kind in "iu" and own.itemsize == 8)
    untouched = untouched and band.reduce not in ("mean", "sum")
    addends = 1 + len(band.more) if band.reduce == "sum" else 1
    packed = band.scale != 1.0 or band.offset != 0.0
    if not packed and (kind is Kind.CATEGORICAL or untouched):
        return str(own)
    if own == np.float16:
        return "float32"
    if packed and own.kind in "iu" and own.itemsize <= 2:
        # float32 has 24 bits: enough while each packed step still changes the unpacked number
        steps = abs(band.offset / band.scale) if band.scale else np.inf
        levels = steps + max(abs(np.iinfo(own).min), np.iinfo(own).max)
        return "float32" if addends * levels < 2**22 else "float64"
    if kind is Kind.CIRCULAR and not untouched:
        return "float32"
    wide = own.itemsize == 8 or (own.kind in "iu" and own.itemsize == 4) or (packed and own.itemsize == 4)
    wide = wide or (own.kind in "iu" and addends * 2.0 ** (8 * own.itemsize) > 2**24)
    return "float64" if wide else "float32"


def check_names(variables: Sequence[Variable]) -> None:
    seen: dict[str, str] = {}
    for v in variables:
        if v.name in RESERVED:
            raise SettingsError(f"layer {v.layer}: the column name {v.name!r} is reserved", "name the layer otherwise")
        if v.name in seen:
            raise SettingsError(
                f"two columns would be named {v.name!r}: of layer {seen[v.name]} and of layer {v.layer}",
                "rename one of the layers",
            )
        seen[v.name] = v.layer
