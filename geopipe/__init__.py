"""geopipe: many rasters in, one table out."""

from importlib.metadata import version

__version__ = version("geopipe")
