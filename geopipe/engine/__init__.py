"""What executes a plan: Ray, or this process.

- `contract`: Engine, and the functions that it takes
- `local`: the plain loop, the oracle of the Ray engine
- `ray`: Ray Datasets
- `waves`: waves of tiles, one or some at a time
- `session`: what a process keeps open between tiles
- `cluster`, `guard`, `address`: the Ray cluster of a run, its loss, its address and token
- `baseline`: the old way
"""
