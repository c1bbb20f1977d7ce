-- What is stable as its parts are (convert_to, extract) can be inlined: a third of an import's time.
alter function perdure.event_hash_v1(bytea, uuid, integer, uuid, text, smallint, timestamptz, text, text, bytea) stable;

-- The way in for events that another log recorded: as append_batch, one element an event in every array, but each with
-- the time at which it was recorded there. Its hash is computed here, over what is stored here, so nothing comes in
-- that does not chain. Events that are there already are left out; their positions are null.
--
-- An event that cannot be taken raises PD010: the message says why, the detail which (its place in the arrays).
create function perdure.import_batch(
    streams uuid[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    recorded timestamptz[], data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[],
    hashes bytea[], out positions bigint[]
) language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
    large constant integer := 8192;
    known boolean[];
    bad integer;
    reason text;
    drawn bigint[];
begin
    with given as (
        select n.*, lag(n.version) over of_stream as version_before, lag(n.hash) over of_stream as hash_before
        from unnest(streams, versions, ids, types, schema_versions, recorded, data, metadata, payloads, salts, digests,
                    hashes)
            with ordinality as n(stream, version, id, type, schema_version, recorded_at, data, metadata, payload, salt,
                                 digest, hash, number)
        window of_stream as (partition by n.stream order by n.number)
    ), compared as materialized (
        select g.*,
            (select e.hash from perdure.events e where e.stream = g.stream and e.version = g.version) as found,
            case when g.version_before is not null then g.hash_before
                 when g.version > 1 then
                    (select e.hash from perdure.events e where e.stream = g.stream and e.version = g.version - 1)
            end as previous
        from given g
    ), judged as (
        select c.number, c.found is not null as known, case
            when c.version = 1 and c.found is null
                and exists (select from perdure.archived a where a.stream = c.stream) then
                format('stream %s was archived here, and its id is taken for ever', c.stream)
            when c.type = 'StreamArchived' and c.version_before is null and c.previous is null then
                format('stream %s was archived: import first the file that its events went to', c.stream)
            when c.version <> c.version_before + 1 or (c.version > 1 and c.previous is null) or c.version < 1 then
                format('version %s of stream %s is missing before its version %s',
                       c.version - 1, c.stream, c.version)
            when c.found <> c.hash then
                format('stream %s is there already, with another version %s', c.stream, c.version)
            when c.hash <> perdure.event_hash_v1(c.previous, c.stream, c.version, c.id, c.type, c.schema_version,
                                                 c.recorded_at, c.data, c.metadata, c.digest) then
                format('the hash of version %s of stream %s does not match: it, or what is before it, was changed',
                       c.version, c.stream)
            when (c.payload is null) <> (c.salt is null) or (c.payload is not null and c.digest is null)
                or c.digest <> perdure.payload_digest_v1(c.salt, c.payload) then
                format('the payload of version %s of stream %s was changed', c.version, c.stream)
            end as reason
        from compared c
    )
    select array_agg(j.known order by j.number), min(j.number) filter (where j.reason is not null),
           (array_agg(j.reason order by j.number) filter (where j.reason is not null))[1]
    into known, bad, reason from judged j;
    if bad is not null then
        raise exception using errcode = 'PD010', message = reason, detail = bad::text;
    end if;

    with inserted as (
        insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata,
                                    payload, payload_salt, payload_digest, hash)
        select n.recorded_at, n.stream, n.version, n.schema_version, n.id, n.type, n.data::json, n.metadata::json,
               case when octet_length(n.payload) <= large then n.payload end, n.salt, n.digest, n.hash
        from unnest(streams, versions, ids, types, schema_versions, recorded, data, metadata, payloads, salts, digests,
                    hashes)
            with ordinality as n(stream, version, id, type, schema_version, recorded_at, data, metadata, payload, salt,
                                 digest, hash, number)
        where not known[n.number]
        order by n.number
        returning position
    )
    select array_agg(position) into drawn from inserted;

    insert into perdure.payloads (stream, version, payload)
    select n.stream, n.version, n.payload
    from unnest(streams, versions, payloads) with ordinality as n(stream, version, payload, number)
    where octet_length(n.payload) > large and not known[n.number];

    positions := array(
        select case when not k.known then drawn[count(*) filter (where not k.known) over (order by k.number)] end
        from unnest(known) with ordinality as k(known, number) order by k.number);
end $$;

-- import_batch with the working set's rows, as append_with_work has them. A row's "a" is the number of the event that
-- causes it; the rows of events that are there already are left out. Beyond write_work's: "registered" and "retirements",
-- which may be several of one workflow, and "armed", waits that count from where the event stands that started their run.
create function perdure.import_with_work(
    companion json,
    streams uuid[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    recorded timestamptz[], data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[],
    hashes bytea[], out positions bigint[]
) language plpgsql as $$
#variable_conflict use_column
declare
    work record;
    given integer[];
    known integer[];
    drawn bigint[];
begin
    positions := perdure.import_batch(streams, versions, ids, types, schema_versions, recorded, data, metadata, payloads,
                                      salts, digests, hashes);
    if companion is null then
        return;
    end if;
    select array_agg(p.number order by p.number), array_agg(p.number) filter (where p.position is null),
           array_agg(p.position order by p.number) filter (where p.position is not null)
    into given, known, drawn
    from unnest(positions) with ordinality as p(position, number);
    known := coalesce(known, '{}');
    perform perdure.write_work(companion, known, given, drawn);

    select * into work from json_to_record(companion) as w(registered json, retirements json, armed json);
    if work.registered is not null then
        insert into perdure.definitions (workflow_id, number, digest, document, events, keyed, registered_at)
        select r.workflow_id, r.number, r.digest, r.document, r.events, r.keyed, positions[r.a]
        from json_to_recordset(work.registered) r(a integer, workflow_id text, number integer, digest text,
                                                  document text, events text[], keyed boolean)
        where r.a <> all (known);
    end if;
    if work.retirements is not null then
        update perdure.definitions d set retired_at = first.position
        from (
            select d.workflow_id, d.number, min(positions[r.a]) as position
            from json_to_recordset(work.retirements) r(a integer, workflow_id text)
            join perdure.definitions d on d.workflow_id = r.workflow_id and d.registered_at < positions[r.a]
            where r.a <> all (known) and d.retired_at is null
            group by d.workflow_id, d.number
        ) first
        where d.workflow_id = first.workflow_id and d.number = first.number;
    end if;
    if work.armed is not null then
        update perdure.waits w set armed_at = e.position
        from json_to_recordset(work.armed) r(a integer, run uuid, event_id uuid)
        join perdure.events e on e.stream = r.event_id and e.version = 1
        where r.a <> all (known) and w.run = r.run and e.position < w.armed_at;
    end if;
end $$;
