"""What the old system left in a database."""
