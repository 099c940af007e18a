"""From block rows to the rows of a tile."""
