"""The one error of the embedded Postgres."""


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot run or stop; the message is a sentence: what, where, and what would be right."""
