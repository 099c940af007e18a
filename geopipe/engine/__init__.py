"""What executes a plan: Ray, or one process."""
