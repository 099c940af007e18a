"""What must hold of a table: of its receipts, and of its rows."""
