"""The target grid and the geometry around it."""
