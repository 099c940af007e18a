"""Parse and rewrite VRT files, so that GDAL gets only known elements and checked references.

The text is generated from the parsed form: GDAL's lenient parser cannot find anything in it that ours did not. Elements
that lead elsewhere or contain code are refused. Those that no pixel needs (overviews, histograms) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

DATASET = """VRTDataset SRS GeoTransform GCPList GCP Metadata MDI MaskBand VRTRasterBand"""
BAND = """Description UnitType Offset Scale CategoryNames Category ColorInterp ColorTable Entry NoDataValue
    HideNoDataValue NodataValue SimpleSource ComplexSource AveragedSource KernelFilteredSource"""
SOURCE = """SourceFilename SourceBand SourceProperties SrcRect DstRect NODATA UseMaskBand ScaleOffset ScaleRatio LUT
    ColorTableComponent Exponent SrcMin SrcMax DstMin DstMax Clamp Kernel Size Coefs"""
DERIVED = "PixelFunctionType PixelFunctionLanguage PixelFunctionArguments SourceTransferType SkipNonContributingSources"
WARPED = """BlockXSize BlockYSize GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option SourceDataset
    Transformer ApproxTransformer MaxError BaseTransformer GenImgProjTransformer SrcGeoTransform SrcInvGeoTransform
    DstGeoTransform DstInvGeoTransform ReprojectTransformer ReprojectionTransformer SourceSRS TargetSRS Options
    BandList BandMapping SrcNoDataReal SrcNoDataImag DstNoDataReal DstNoDataImag SrcAlphaBand DstAlphaBand Cutline
    CutlineBlendDist MultiThreading"""
KNOWN = frozenset(f"{DATASET} {BAND} {SOURCE} {DERIVED} {WARPED}".split())

NEEDLESS = frozenset({"Overview", "OverviewList", "Histograms", "GDALRasterAttributeTable"})
REFERENCES = frozenset({"SourceFilename", "SourceDataset"})

SUBCLASSES = {
    "VRTDataset": (None, "VRTWarpedDataset"),
    "VRTRasterBand": (None, "VRTSourcedRasterBand", "VRTDerivedRasterBand", "VRTWarpedRasterBand"),
}

PLAIN = ("", "IMAGE_STRUCTURE", "RPC")
"""Domains of metadata that matter for pixels."""


def rewrite(text: str, resolve: Callable[[str, bool], str]) -> str:
    """Rewrite a VRT for GDAL to open in place of the file.

    Args:
        text: of the file.
        resolve: maps a reference, and whether it is relative to the VRT, to the name (or another VRT's text) for GDAL.
            It raises its own error for a reference that is not allowed.

    Raises:
        ValueError: it is no VRT, or has a forbidden element, which the message names.
    """
    head, declared, rest = text.lstrip("\ufeff \t\r\n").partition("?>")
    body = rest if declared and head.startswith("<?xml") else text
    if "<?" in body or body.replace("<!--", "").count("<!"):
        raise ValueError("it has a document type, a processing instruction or CDATA")
    try:
        root = ElementTree.fromstring(body.strip("\ufeff \t\r\n"))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"it is no XML: {error}") from None
    if root.tag != "VRTDataset":
        raise ValueError(f"it is no VRT of rasters: its root is <{root.tag}>")
    _check(root, resolve)
    return ElementTree.tostring(root, encoding="unicode")


def _check(node: Element, resolve: Callable[[str, bool], str]) -> None:
    """Rewrite an element and all elements in it, or refuse them."""
    subclass = node.get("subClass")
    if node.tag not in KNOWN:
        raise ValueError(f"it has <{node.tag}>, which geopipe does not let through")
    if subclass not in SUBCLASSES.get(node.tag, (None,)):
        raise ValueError(f"it has a {subclass}, which reads files as raw bytes or runs steps of its own")
    if node.tag == "PixelFunctionLanguage" and (node.text or "").strip() != "C":
        raise ValueError(f"it has code: a pixel function in {(node.text or '').strip()}")
    if node.tag == "PixelFunctionType" and (node.text or "").strip() == "expression":
        raise ValueError("it has code: a pixel function that is an expression")
    if node.tag in REFERENCES:
        relative = {key.lower(): value for key, value in node.attrib.items()}.get("relativetovrt", "0")
        node.text = resolve((node.text or "").strip(), relative.strip() == "1")
        node.attrib = {"relativeToVRT": "0"} | ({"shared": node.attrib["shared"]} if "shared" in node.attrib else {})
    for child in list(node):
        if child.tag in NEEDLESS or (child.tag == "Metadata" and child.get("domain", "") not in PLAIN):
            node.remove(child)
        else:
            _check(child, resolve)
    if any(child.tag in REFERENCES for child in node):
        # full resolution only: a tag of a source may have its overviews at any address
        options = ElementTree.SubElement(node, "OpenOptions")
        ElementTree.SubElement(options, "OOI", {"key": "OVERVIEW_LEVEL"}).text = "NONE"
