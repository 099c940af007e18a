"""From merged tiles to a committed table: files, receipts, manifest, publication."""
