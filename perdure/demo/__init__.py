"""What ``perdure demo`` shows."""
