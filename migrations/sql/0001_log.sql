-- The log: every event, for ever. Read docs/guarantees.md before changing a line.

create table perdure.events (
    position bigint generated always as identity primary key,
    recorded_at timestamptz not null,
    stream uuid not null,
    version integer not null,
    schema_version smallint not null,
    id uuid not null,
    type text not null,
    data json not null,
    metadata json not null,
    payload bytea,
    payload_salt bytea,
    payload_digest bytea,
    hash bytea not null,
    constraint events_stream_version unique (stream, version)
);

-- An append-only table is never updated, so plain vacuum has nothing to do there; freezing early keeps the
-- anti-wraparound pass from arriving all at once.
alter table perdure.events set (autovacuum_vacuum_insert_scale_factor = 0.05);

comment on table perdure.events is 'Every event, in the order of position; append-only.';
comment on column perdure.events.payload is
    'What users gave or got, as written. Null with a digest: large (in payloads) or erased.';

create table perdure.payloads (
    stream uuid not null,
    version integer not null,
    payload bytea not null,
    primary key (stream, version)
);

comment on table perdure.payloads is 'Payloads too large to lie beside their event.';

create function perdure.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the log is append-only: % on %.% is refused', tg_op, tg_table_schema, tg_table_name
        using errcode = 'PD001', hint = 'Record a new event instead.';
end $$;

create trigger events_are_final before update or delete or truncate on perdure.events
    for each statement execute function perdure.refuse_change();
create trigger payloads_are_final before update or delete or truncate on perdure.payloads
    for each statement execute function perdure.refuse_change();

-- Always: a session with session_replication_role = replica is refused as well.
alter table perdure.events enable always trigger events_are_final;
alter table perdure.payloads enable always trigger payloads_are_final;

-- Hash v1, the twin of perdure_eventstore.hashing: SHA-256 over length-prefixed fields.
create function perdure.hash_field(field bytea) returns bytea
    language sql immutable parallel safe return int4send(octet_length(field)) || field;

create function perdure.event_hash_v1(
    previous bytea, stream uuid, version integer, id uuid, type text, schema_version smallint,
    recorded_at timestamptz, data text, metadata text, payload_digest bytea
) returns bytea language sql immutable parallel safe as $$
    select sha256(
        perdure.hash_field('perdure.event.v1')
        || perdure.hash_field(coalesce(previous, ''))
        || perdure.hash_field(uuid_send(stream))
        || perdure.hash_field(int8send(version))
        || perdure.hash_field(uuid_send(id))
        || perdure.hash_field(convert_to(type, 'UTF8'))
        || perdure.hash_field(int8send(schema_version))
        || perdure.hash_field(int8send((extract(epoch from recorded_at) * 1000000)::bigint))
        || perdure.hash_field(sha256(convert_to(data, 'UTF8')))
        || perdure.hash_field(sha256(convert_to(metadata, 'UTF8')))
        || perdure.hash_field(coalesce(payload_digest, '')))
$$;

create function perdure.payload_digest_v1(salt bytea, payload bytea) returns bytea
    language sql immutable parallel safe return sha256(salt || payload);

-- The one way into the log. Arrays run side by side: one element an append (streams, expected versions and hashes),
-- one an event (the rest; "appends" says which append an event belongs to, from 1). Events come sorted by
-- (stream, version), so that two batches never wait for each other in a circle.
--
-- An append whose stream's head is not the expected one is left out and reported; the others go in. A race left
-- after that probe raises unique_violation for the whole batch, and the caller calls again.
create function perdure.append_batch(
    recorded_at timestamptz,
    streams uuid[], expected_versions integer[], expected_hashes bytea[],
    appends integer[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[], hashes bytea[],
    out lost integer[], out positions bigint[], out clock timestamptz
) language plpgsql as $$
#variable_conflict use_column
declare
    large constant integer := 8192;
begin
    clock := clock_timestamp();
    if append_batch.recorded_at not between clock - interval '5 s' and clock + interval '5 s' then
        raise exception 'recorded_at % is more than 5 s from the database''s clock %', append_batch.recorded_at, clock
            using errcode = 'PD002';
    end if;

    select array_agg(a.number::integer) into lost
    from unnest(streams, expected_versions, expected_hashes) with ordinality a(stream, version, hash, number)
    left join lateral (
        select e.version, e.hash from perdure.events e where e.stream = a.stream order by e.version desc limit 1
    ) head on true
    where coalesce(head.version, 0) <> a.version or head.hash is distinct from a.hash;

    with inserted as (
        insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata,
                                    payload, payload_salt, payload_digest, hash)
        select append_batch.recorded_at, streams[n.append], n.version, n.schema_version, n.id, n.type, n.data::json,
               n.metadata::json, case when octet_length(n.payload) <= large then n.payload end, n.salt, n.digest, n.hash
        from unnest(appends, versions, ids, types, schema_versions, data, metadata, payloads, salts, digests, hashes)
            as n(append, version, id, type, schema_version, data, metadata, payload, salt, digest, hash)
        where lost is null or n.append <> all (lost)
        returning position
    )
    select array_agg(position) into positions from inserted;

    insert into perdure.payloads (stream, version, payload)
    select streams[n.append], n.version, n.payload
    from unnest(appends, versions, payloads) as n(append, version, payload)
    where octet_length(n.payload) > large and (lost is null or n.append <> all (lost));
end $$;

create table perdure.subscriptions (
    name text primary key,
    position bigint not null
);
comment on table perdure.subscriptions is 'How far each durable subscription has read.';
