-- The keys of encrypted payloads, one a stream, each wrapped with a master key that is not in the database. Unused
-- where nothing is encrypted, or where the keys are kept elsewhere.

create table perdure.keys (
    stream uuid primary key,
    wrapped bytea,
    destroyed_at timestamptz
);
comment on table perdure.keys is 'The wrapped key of each stream whose payloads are encrypted; null once destroyed.';
