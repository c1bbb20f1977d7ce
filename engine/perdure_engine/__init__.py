"""Definitions, the run (a pure core) and the node around it. Knows nothing of views."""
