"""The way of a run.

- `pipeline`: from settings to a committed table
- `draft`: from settings to a plan
- `attempts`: execute a plan, without layers that break and may be skipped
- `destination`: the output folder and the object store
- `options`, `summary`, `reporting`: what goes into a run, comes out of it, and is seen meanwhile
- `guess`, `propose`: settings from files
- `progress`: bars in a terminal or a notebook
"""
