"""The revisions: for each a module that alembic runs, and its SQL."""
