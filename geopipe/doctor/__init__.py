"""What `geopipe doctor` checks on a machine, or on every node of a cluster. It starts nothing.

- `findings`: a finding, with its state and a hint
- `diagnose`: all findings of a machine, of a node, and of a cluster
- `versions`: Python and libraries, beside what geopipe needs and what requirements.lock has
- `system`: processors, memory, disks, open files, kernels, grids of PROJ
- `folder`: the folder that a run works in
- `services`: Postgres, ports, the token of a cluster
- `variables`: environment variables that change what a run does
"""
