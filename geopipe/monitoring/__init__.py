"""Logs, progress, metrics and events on their way to Postgres and Prometheus."""
