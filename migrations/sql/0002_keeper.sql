-- The keeper: the only way to take anything out of the log. Two things can be taken: a payload with its salt, and the
-- events of a stream that was archived. Read docs/decisions/0009-erasure-and-the-keeper.md before changing a line.
--
-- Three guards stand one behind the other, for the owner and a superuser as well:
-- 1. The statement: refused, unless a function below has entered its transaction into "keeper" (and it takes the row
--    back before it returns, so nothing else in that transaction may change the log either).
-- 2. The row: whoever got past that can null a payload with its salt, or delete what is archived, and nothing else.
-- 3. The event: what was taken is said in the stream itself, in the same transaction, and the chain goes on from there.

create table perdure.keeper (
    xid bigint primary key
);
comment on table perdure.keeper is 'The transaction in which the keeper is at work; seen empty by everybody else.';

create or replace function perdure.refuse_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if ((tg_table_name = 'events' and tg_op in ('UPDATE', 'DELETE')) or (tg_table_name = 'payloads' and tg_op = 'DELETE'))
        and exists (select from perdure.keeper k where k.xid = pg_current_xact_id_if_assigned()::text::bigint)
    then
        return null;
    end if;
    raise exception 'the log is append-only: % on %.% is refused', tg_op, tg_table_schema, tg_table_name
        using errcode = 'PD001', hint = 'Record a new event instead.';
end $$;

create table perdure.archived (
    stream uuid primary key,
    versions integer not null,
    head bytea not null,
    positions int8range not null,
    file text not null,
    archived_at timestamptz not null default clock_timestamp()
);
comment on table perdure.archived is 'Streams whose events were moved to a file; what is believed is the event that says so.';
comment on column perdure.archived.versions is 'How many events; head is the hash of the last of them.';
comment on column perdure.archived.positions is 'From its first event to its last one; other streams lie between.';
create index archived_positions on perdure.archived using gist (positions);

create trigger archived_are_final before update or delete or truncate on perdure.archived
    for each statement execute function perdure.refuse_change();
alter table perdure.archived enable always trigger archived_are_final;

create function perdure.refuse_row() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        old.payload := null;
        old.payload_salt := null;
        if old *= new then
            return new;
        end if;
        raise exception 'the log is append-only: an event can lose its payload, and nothing else of it can change'
            using errcode = 'PD001';
    end if;
    if exists (select from perdure.archived a where a.stream = old.stream and old.version <= a.versions) then
        return old;
    end if;
    if tg_table_name = 'payloads' and not exists (
        select from perdure.events e
        where e.stream = old.stream and e.version = old.version and e.payload_salt is not null)
    then
        return old;
    end if;
    raise exception 'the log is append-only: version % of stream % is not archived', old.version, old.stream
        using errcode = 'PD001';
end $$;

create trigger events_lose_payloads_only before update or delete on perdure.events
    for each row execute function perdure.refuse_row();
create trigger payloads_go_with_their_event before delete on perdure.payloads
    for each row execute function perdure.refuse_row();
alter table perdure.events enable always trigger events_lose_payloads_only;
alter table perdure.payloads enable always trigger payloads_go_with_their_event;

-- The event that says what the keeper did, at the stream's end. A race for that place raises unique_violation, and the
-- caller calls again.
create function perdure.record_keeping(stream uuid, last integer, previous bytea, type text, data text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    now constant timestamptz := clock_timestamp();
    id constant uuid := gen_random_uuid();
begin
    insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
    values (now, stream, last + 1, 1, id, type, data::json, '{}', perdure.event_hash_v1(
        previous, stream, last + 1, id, type, 1::smallint, now, data, '{}', null));
end $$;

-- Erase up to "most" payloads of a stream, the earliest first, and say so in the stream. Call it until nothing is left:
-- each call is whole in itself, so one that was killed leaves payloads that are there or accounted for.
create function perdure.erase_payloads(
    stream uuid, most integer, reason text, actor text, out erased integer, out finished boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    head record;
    taken integer;
    chosen constant integer[] := array(
        select e.version from perdure.events e
        where e.stream = erase_payloads.stream and e.payload_salt is not null order by e.version limit most);
begin
    erased := cardinality(chosen);
    finished := erased < most;
    if erased = 0 then
        return;
    end if;
    insert into perdure.keeper (xid) values (pg_current_xact_id()::text::bigint);
    update perdure.events e set payload = null, payload_salt = null
    where e.stream = erase_payloads.stream and e.version = any (chosen) and e.payload_salt is not null;
    get diagnostics taken = row_count;
    if taken < erased then
        -- Somebody else erased or archived them while this waited: what is said of it would not be true.
        raise unique_violation using constraint = 'events_stream_version',
            message = format('stream %s was erased or archived by somebody else just now', stream);
    end if;
    delete from perdure.payloads p where p.stream = erase_payloads.stream and p.version = any (chosen);
    delete from perdure.keeper k where k.xid = pg_current_xact_id()::text::bigint;
    select e.version, e.hash into head from perdure.events e
    where e.stream = erase_payloads.stream order by e.version desc limit 1;
    perform perdure.record_keeping(stream, head.version, head.hash, 'PayloadsErased', json_build_object(
        'first', chosen[1], 'last', chosen[erased], 'payloads', erased, 'reason', reason, 'actor', actor)::text);
end $$;

-- Remove streams whose events are in a file, and say so in each: "versions" and "heads" are how many events of each are
-- there and the hash of the last. Returns those that were removed; left alone are those that went on since, those that
-- reach beyond the tree's complete chunks, and those that are archived already.
create function perdure.remove_archived(streams uuid[], versions integer[], heads bytea[], file text, path text)
returns uuid[] language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    covered constant bigint := coalesce((
        select c.last_position from perdure.tree_chunks c order by c.number desc limit 1), 0);
    removed uuid[] := '{}';
    one record;
    spans json;
begin
    insert into perdure.keeper (xid) values (pg_current_xact_id()::text::bigint);
    for one in
        select s.stream, s.version, s.hash, e.first, e.last
        from unnest(streams, versions, heads) as s(stream, version, hash)
        cross join lateral (
            select count(*) as events, min(position) as first, max(position) as last,
                bool_or(e.version = s.version and e.hash = s.hash) as ends
            from perdure.events e where e.stream = s.stream
        ) e
        where e.events = s.version and e.ends and e.last <= covered
            and not exists (select from perdure.archived a where a.stream = s.stream)
        order by s.stream
    loop
        select json_agg(json_build_array(island.first, island.last) order by island.first) into spans
        from (
            select min(p.position) as first, max(p.position) as last
            from (select e.position, e.position - row_number() over (order by e.position) as shift
                from perdure.events e where e.stream = one.stream) p
            group by p.shift
        ) island;
        insert into perdure.archived (stream, versions, head, positions, file)
        values (one.stream, one.version, one.hash, int8range(one.first, one.last, '[]'), path);
        delete from perdure.events e where e.stream = one.stream and e.version <= one.version;
        delete from perdure.payloads p where p.stream = one.stream and p.version <= one.version;
        perform perdure.record_keeping(one.stream, one.version, one.hash, 'StreamArchived', json_build_object(
            'versions', one.version, 'head', encode(one.hash, 'hex'), 'positions', spans, 'file', file)::text);
        removed := removed || one.stream;
    end loop;
    delete from perdure.keeper k where k.xid = pg_current_xact_id()::text::bigint;
    return removed;
end $$;

-- That the payloads of an archived stream were taken out of its file.
create function perdure.erase_archived(stream uuid, payloads integer, reason text, actor text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    head record;
begin
    select e.version, e.hash, a.versions into strict head from perdure.events e join perdure.archived a using (stream)
    where e.stream = erase_archived.stream order by e.version desc limit 1;
    perform perdure.record_keeping(stream, head.version, head.hash, 'PayloadsErased', json_build_object(
        'first', 1, 'last', head.versions, 'payloads', payloads, 'reason', reason, 'actor', actor)::text);
end $$;

create or replace function perdure.archived_streams(first_position bigint, last_position bigint) returns setof uuid
    language sql stable as $$
    select a.stream from perdure.archived a where a.positions && int8range(first_position, last_position, '[]') $$;

revoke execute on function perdure.record_keeping, perdure.erase_payloads, perdure.remove_archived,
    perdure.erase_archived from public;
