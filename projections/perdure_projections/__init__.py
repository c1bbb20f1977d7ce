"""What people query: views folded from the log."""
