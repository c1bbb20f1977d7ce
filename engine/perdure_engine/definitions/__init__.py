"""Definitions: the language, its checks and its compiled form."""
