"""Runs as jobs of a Ray cluster.

- `submission`: submit a run to a cluster, follow its output, end it; needs no database
- `checks`: what may be submitted, and what must hold where it runs
- `jobs`: start, pause, resume and stop runs that a database knows
- `head`: the cluster that takes them, and the head of our own
"""
