"""From source pixels to grid cells."""
