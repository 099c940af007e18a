"""The monitor's Postgres: connections, schema, writing, and reading it again."""
