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
    positions bigint[] not null,
    file text not null,
    archived_at timestamptz not null default clock_timestamp()
);
comment on table perdure.archived is 'Streams whose events were moved to a file: how many, with the last one''s hash, and their positions.';

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
create function perdure.record_keeping(stream uuid, type text, data text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    head record;
    now constant timestamptz := clock_timestamp();
    id constant uuid := gen_random_uuid();
begin
    select e.version, e.hash into head from perdure.events e
    where e.stream = record_keeping.stream order by e.version desc limit 1;
    insert into perdure.events (recorded_at, stream, version, schema_version, id, type, data, metadata, hash)
    values (now, stream, head.version + 1, 1, id, type, data::json, '{}', perdure.event_hash_v1(
        head.hash, stream, head.version + 1, id, type, 1::smallint, now, data, '{}', null));
end $$;

-- Erase up to "most" payloads of a stream, the earliest first, and say so in the stream. Call it until nothing is left:
-- each call is whole in itself, so one that was killed leaves payloads that are there or accounted for.
create function perdure.erase_payloads(
    stream uuid, most integer, reason text, actor text, out erased integer, out finished boolean
) language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
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
    where e.stream = erase_payloads.stream and e.version = any (chosen);
    delete from perdure.payloads p where p.stream = erase_payloads.stream and p.version = any (chosen);
    delete from perdure.keeper k where k.xid = pg_current_xact_id()::text::bigint;
    perform perdure.record_keeping(stream, 'PayloadsErased', json_build_object(
        'first', chosen[1], 'last', chosen[erased], 'payloads', erased, 'reason', reason, 'actor', actor)::text);
end $$;

revoke execute on function perdure.record_keeping, perdure.erase_payloads from public;
