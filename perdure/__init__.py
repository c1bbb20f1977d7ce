"""Dynamic, event-driven workflows that outlast outages, on the Postgres you already have."""
