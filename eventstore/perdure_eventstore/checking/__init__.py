"""The parts of the check of the log: ``verify`` puts them together."""
