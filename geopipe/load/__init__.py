"""Opening and reading rasters, tables and vector files."""
