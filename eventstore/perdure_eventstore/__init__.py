"""The log: append, read, subscribe, verify. Knows nothing of workflows."""
