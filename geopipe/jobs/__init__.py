"""Runs as jobs of a Ray cluster.

- `jobs`: start, pause, resume and stop them
- `head`: the cluster that takes them, and the head of our own
"""
