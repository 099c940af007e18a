"""A finished table: what it is, its rows as Arrow, pandas, Ray or xarray, and how other programs read it."""
