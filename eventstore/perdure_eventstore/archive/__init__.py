"""Streams moved from the log to files: written, read again, checked, and only then removed."""
