"""How a revision runs its text of SQL."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def run(module: str) -> None:
    """Run the .sql file beside a revision, word for word: neither colons nor percent signs are parameters.

    Args:
        module: the revision's `__file__`.
    """
    text = Path(module).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
