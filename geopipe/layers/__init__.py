"""Layers, sources and variables as values: what a raster or table is before it meets a grid."""
