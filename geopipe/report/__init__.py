"""What a run came to, on one page: facts as JSON first, rendered apart."""
