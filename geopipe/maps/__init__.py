"""From a table back to rasters."""
