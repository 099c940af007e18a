"""SQL for a role with the rights that a run needs in the monitor's database."""

from __future__ import annotations

from geopipe.monitoring.database.migrations.revisions import PARTITIONED, RELATIONS, VERSION_TABLE
from geopipe.text import clean

CHANGED = ("pipeline_runs", "pipeline_metrics_latest", "pipeline_progress", "pipeline_sources")
FUNCTIONS = ("geopipe_run_day(uuid, timestamptz)", "geopipe_cause(text)")


def statements(name: str, schema: str = "public") -> str:
    """SQL for a role that can read and write the tables, and neither create nor drop any; to be run by their owner.

    A function creates partitions for the role.
    """
    role, inside = quoted(name), quoted(schema)
    views = [one for one in RELATIONS if one not in PARTITIONED and one not in CHANGED]

    def tables(names: tuple[str, ...] | list[str]) -> str:
        return ", ".join(f"{inside}.{one}" for one in names)

    return f"""\
-- For the owner of the tables. Afterwards give the role a password: \\password {clean(role)}
DO $$ BEGIN
    CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
DO $$ BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), {literal(name)});
END $$;
REVOKE CREATE ON SCHEMA {inside} FROM PUBLIC;
GRANT USAGE ON SCHEMA {inside} TO {role};
GRANT SELECT, INSERT ON {tables(PARTITIONED)} TO {role};
GRANT SELECT, INSERT, UPDATE ON {tables(CHANGED)} TO {role};
GRANT SELECT ON {tables([*views, VERSION_TABLE])} TO {role};
GRANT EXECUTE ON FUNCTION {inside}.geopipe_partitions(date) TO {role};
GRANT EXECUTE ON FUNCTION {", ".join(f"{inside}.{one}" for one in FUNCTIONS)} TO {role};
"""


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
