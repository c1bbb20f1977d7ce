-- Appends to several streams in one go.

-- The wrapper first: what append_batch answers is a part of what it is.
drop function perdure.append_with_work;
drop function perdure.append_batch;

-- The one way into the log. Arrays run side by side: one element an append (streams, expected versions and hashes,
-- groups), one an event (the rest; "appends" says which append an event belongs to, from 1). Events come sorted by
-- (stream, version), so that two batches never wait for each other in a circle.
--
-- An append whose stream's head is not the expected one is left out and reported as lost; the others go in. Appends of
-- one group are recorded all or none ("groups" is null where no two belong together): "left_out" holds the lost ones
-- and those lost with them. A race left after that probe raises unique_violation for the whole batch, and the caller
-- calls again. "large" says that a payload may be too large to lie beside its event.
--
-- The settings spare Postgres a plan for every call, and hold it to the indexes: a plan made while the log was empty is
-- kept until the log is analyzed for the first time.
create function perdure.append_batch(
    recorded_at timestamptz, large boolean,
    streams uuid[], expected_versions integer[], expected_hashes bytea[], groups integer[],
    appends integer[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[], hashes bytea[],
    out lost integer[], out positions bigint[], out clock timestamptz, out left_out integer[]
) language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
    most_inline constant integer := 8192;
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

    left_out := lost;
    if lost is not null and groups is not null then
        left_out := array(
            select a.number::integer from unnest(groups) with ordinality a(company, number)
            where a.company = any (select groups[l.number] from unnest(lost) l(number)));
    end if;

    with inserted as (
        insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata,
                                    payload, payload_salt, payload_digest, hash)
        select append_batch.recorded_at, streams[n.append], n.version, n.schema_version, n.id, n.type, n.data::json,
               n.metadata::json, case when large and octet_length(n.payload) > most_inline then null else n.payload end,
               n.salt, n.digest, n.hash
        from unnest(appends, versions, ids, types, schema_versions, data, metadata, payloads, salts, digests, hashes)
            as n(append, version, id, type, schema_version, data, metadata, payload, salt, digest, hash)
        where left_out is null or n.append <> all (left_out)
        returning position
    )
    select array_agg(position) into positions from inserted;

    if large then
        insert into perdure.payloads (stream, version, payload)
        select streams[n.append], n.version, n.payload
        from unnest(appends, versions, payloads) as n(append, version, payload)
        where octet_length(n.payload) > most_inline and (left_out is null or n.append <> all (left_out));
    end if;
end $$;

-- append_batch with what must commit beside the events. "companion" is a JSON object of arrays of rows, one array a
-- table; a row's "a" is the number of the append it belongs to, and the rows of an append that was left out are too.
-- A node names itself and its epoch; the row is held to the end, so that a takeover, which takes it FOR UPDATE, waits
-- for this append. FOR KEY SHARE and no more: the node's renewals update that row, and wait for nobody.
create function perdure.append_with_work(
    node uuid, epoch integer, companion json,
    recorded_at timestamptz, large boolean,
    streams uuid[], expected_versions integer[], expected_hashes bytea[], groups integer[],
    appends integer[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[], hashes bytea[],
    out lost integer[], out positions bigint[], out clock timestamptz
) language plpgsql as $$
#variable_conflict use_column
declare
    left_out integer[];
begin
    if append_with_work.node is not null then
        perform from perdure.nodes n
        where n.node = append_with_work.node and n.epoch = append_with_work.epoch for key share;
        if not found then
            raise exception 'node % no longer holds epoch %', append_with_work.node, append_with_work.epoch
                using errcode = 'PD003';
        end if;
    end if;

    select b.lost, b.positions, b.clock, b.left_out into lost, positions, clock, left_out
    from perdure.append_batch(append_with_work.recorded_at, large, streams, expected_versions, expected_hashes, groups,
                              appends, versions, ids, types, schema_versions, data, metadata, payloads, salts, digests,
                              hashes) b;

    if companion is not null then
        perform perdure.write_work(companion, coalesce(left_out, '{}'), appends, positions);
    end if;
end $$;

-- The two as transactions of their own. A client sends a statement and then, five bytes that it may be frozen before,
-- the word to commit: a procedure commits without waiting for it, so that nobody ever holds the log's locks asleep.
create procedure perdure.commit_batch(
    recorded_at timestamptz, large boolean,
    streams uuid[], expected_versions integer[], expected_hashes bytea[], groups integer[],
    appends integer[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[], hashes bytea[],
    inout lost integer[], inout positions bigint[], inout clock timestamptz
) language plpgsql as $$
begin
    select b.lost, b.positions, b.clock into lost, positions, clock
    from perdure.append_batch(recorded_at, large, streams, expected_versions, expected_hashes, groups, appends,
                              versions, ids, types, schema_versions, data, metadata, payloads, salts, digests,
                              hashes) b;
    commit;
end $$;

create procedure perdure.commit_with_work(
    node uuid, epoch integer, companion json,
    recorded_at timestamptz, large boolean,
    streams uuid[], expected_versions integer[], expected_hashes bytea[], groups integer[],
    appends integer[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[], hashes bytea[],
    inout lost integer[], inout positions bigint[], inout clock timestamptz
) language plpgsql as $$
begin
    select w.lost, w.positions, w.clock into lost, positions, clock
    from perdure.append_with_work(node, epoch, companion, recorded_at, large, streams, expected_versions,
                                  expected_hashes, groups, appends, versions, ids, types, schema_versions, data,
                                  metadata, payloads, salts, digests, hashes) w;
    commit;
end $$;
