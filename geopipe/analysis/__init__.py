"""Analyses of a finished table: passes over its rows, and results that are committed beside it."""
