"""The schema of the monitor's tables, as revisions from the oldest to the newest."""
