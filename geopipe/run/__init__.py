"""The way of a run: draft a plan, execute it, commit."""
