"""The task types that come with Perdure: email, database, http."""
