"""What a run says of itself, and how code says it without knowing who listens."""
