-- The working set: what is under way now. Every row is written in the statement that appends the event which causes
-- it, and could be rebuilt from the log. These tables are queues: they stay small, so they are vacuumed eagerly.

create table perdure.nodes (
    node uuid primary key,
    epoch integer not null,
    name text not null,
    task_types text[] not null,
    started_at timestamptz not null default clock_timestamp(),
    alive_until timestamptz not null
);
comment on table perdure.nodes is 'Running engine processes. Every append by a node checks its epoch here.';

create table perdure.shards (
    shard smallint primary key,
    node uuid,
    lease_until timestamptz not null default '-infinity',
    token bigint not null default 0
);
comment on table perdure.shards is 'Which node may run the runs of a shard, and until when.';
comment on column perdure.shards.token is 'How often the shard has changed hands: the fencing token of its runs.';
insert into perdure.shards (shard) select generate_series(0, 63);

create table perdure.definitions (
    workflow_id text not null,
    number integer not null,
    digest text not null,
    document text not null,
    events text[] not null,
    keyed boolean not null,
    registered_at bigint not null,
    retired_at bigint,
    primary key (workflow_id, number)
);
comment on table perdure.definitions is 'Every registered definition; registered_at and retired_at are positions.';
create index definitions_digest on perdure.definitions (digest);

create table perdure.open_runs (
    run uuid primary key,
    shard smallint not null,
    workflow_id text not null,
    key text,
    started_at bigint not null
);
comment on table perdure.open_runs is 'Runs that have not ended; started_at is a position.';
create index open_runs_shard on perdure.open_runs (shard, run);
create unique index open_runs_key on perdure.open_runs (workflow_id, key) where key is not null;

create table perdure.timers (
    run uuid not null,
    timer text not null,
    shard smallint not null,
    due timestamptz not null,
    primary key (run, timer)
);
comment on table perdure.timers is 'When the log wants to be woken: retries, waits, deadlines.';
create index timers_due on perdure.timers (shard, due);

create table perdure.waits (
    run uuid not null,
    trigger integer not null,
    event text not null,
    key text,
    armed_at bigint not null,
    primary key (run, trigger)
);
comment on table perdure.waits is 'The outside events that open runs still wait for; armed_at is a position.';
create index waits_event on perdure.waits (event, key);

create table perdure.inbox (
    id bigint generated always as identity primary key,
    run uuid not null,
    shard smallint not null,
    kind text not null,
    event uuid
);
comment on table perdure.inbox is 'What reached a run from outside and its owner has not decided on yet.';
create index inbox_shard on perdure.inbox (shard, id);

create table perdure.router (
    id smallint primary key default 1 check (id = 1),
    position bigint not null
);
comment on table perdure.router is 'How far published events have been routed to runs.';
insert into perdure.router (position) values (0);

create table perdure.documents (
    document_id uuid primary key default gen_random_uuid(),
    run_id uuid not null,
    task_id text not null,
    recorded_at timestamptz not null default clock_timestamp(),
    document json not null,
    constraint documents_task unique (run_id, task_id)
);
comment on table perdure.documents is 'What tasks of type database kept, where they name no statement.';

alter table perdure.shards set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
alter table perdure.open_runs set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table perdure.timers set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table perdure.waits set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
alter table perdure.inbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- append_batch with what must commit beside the events. "companion" is a JSON object of arrays of rows, one array a
-- table; a row's "a" is the number of the append it belongs to, and the rows of an append that lost are left out.
-- A node names itself and its epoch; the row is held to the end, so that a takeover, which takes it FOR UPDATE, waits
-- for this append. FOR KEY SHARE and no more: the node's renewals update that row, and wait for nobody.
create function perdure.append_with_work(
    node uuid, epoch integer, companion json,
    recorded_at timestamptz,
    streams uuid[], expected_versions integer[], expected_hashes bytea[],
    appends integer[], versions integer[], ids uuid[], types text[], schema_versions smallint[],
    data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[], hashes bytea[],
    out lost integer[], out positions bigint[], out clock timestamptz
) language plpgsql as $$
#variable_conflict use_column
begin
    if append_with_work.node is not null then
        perform from perdure.nodes n
        where n.node = append_with_work.node and n.epoch = append_with_work.epoch for key share;
        if not found then
            raise exception 'node % no longer holds epoch %', append_with_work.node, append_with_work.epoch
                using errcode = 'PD003';
        end if;
    end if;

    select b.lost, b.positions, b.clock into lost, positions, clock
    from perdure.append_batch(append_with_work.recorded_at, streams, expected_versions, expected_hashes, appends,
                              versions, ids, types, schema_versions, data, metadata, payloads, salts, digests, hashes) b;

    if companion is not null then
        perform perdure.write_work(companion, coalesce(lost, '{}'), appends, positions);
    end if;
end $$;

-- What one append writes and takes away again is written first: a retry that was due at once, a wait that ended as it
-- began. Only "closed" comes before everything, so that the key of a run that ends is free for one that starts.
create function perdure.write_work(companion json, losers integer[], appends integer[], positions bigint[]) returns void
language plpgsql as $$
declare
    work record;
    first_positions bigint[];
    ended uuid[];
begin
    select * into work from json_to_record(companion) as w(
        definitions json, retired json, closed json, opened json, timers json, cleared json, waits json, disarmed json,
        inbox json, consumed json);

    if coalesce(work.definitions, work.retired, work.opened, work.waits) is not null then
        -- Of each append, the position of its first event: those that lost drew none.
        first_positions := array(
            select case when drawn.won then positions[min(drawn.place)] else 0 end
            from (
                select e.append, e.append <> all (losers) as won,
                       count(*) filter (where e.append <> all (losers)) over (order by e.number) as place
                from unnest(appends) with ordinality e(append, number)
            ) drawn group by drawn.append, drawn.won order by drawn.append);
    end if;
    if work.definitions is not null then
        insert into perdure.definitions (workflow_id, number, digest, document, events, keyed, registered_at)
        select r.workflow_id, r.number, r.digest, r.document, r.events, r.keyed, first_positions[r.a]
        from json_to_recordset(work.definitions) r(a integer, workflow_id text, number integer, digest text,
                                                   document text, events text[], keyed boolean)
        where r.a <> all (losers);
    end if;
    if work.retired is not null then
        update perdure.definitions d set retired_at = first_positions[r.a]
        from json_to_recordset(work.retired) r(a integer, workflow_id text)
        where r.a <> all (losers) and d.workflow_id = r.workflow_id and d.retired_at is null;
    end if;
    if work.closed is not null then
        ended := array(select r.run from json_to_recordset(work.closed) r(a integer, run uuid) where r.a <> all (losers));
        delete from perdure.timers where run = any (ended);
        delete from perdure.waits where run = any (ended);
        delete from perdure.open_runs where run = any (ended);
    end if;
    if work.opened is not null then
        insert into perdure.open_runs (run, shard, workflow_id, key, started_at)
        select r.run, r.shard, r.workflow_id, r.key, first_positions[r.a]
        from json_to_recordset(work.opened) r(a integer, run uuid, shard smallint, workflow_id text, key text)
        where r.a <> all (losers);
    end if;
    if work.timers is not null then
        insert into perdure.timers (run, timer, shard, due)
        select r.run, r.timer, r.shard, r.due
        from json_to_recordset(work.timers) r(a integer, run uuid, timer text, shard smallint, due timestamptz)
        where r.a <> all (losers)
        on conflict (run, timer) do update set due = excluded.due;
    end if;
    if work.cleared is not null then
        delete from perdure.timers t
        using json_to_recordset(work.cleared) r(a integer, run uuid, timer text)
        where r.a <> all (losers) and t.run = r.run and t.timer = r.timer;
    end if;
    if work.waits is not null then
        insert into perdure.waits (run, trigger, event, key, armed_at)
        select r.run, r.trigger, r.event, r.key, coalesce(r.armed_at, first_positions[r.a])
        from json_to_recordset(work.waits) r(a integer, run uuid, trigger integer, event text, key text, armed_at bigint)
        where r.a <> all (losers);
    end if;
    if work.disarmed is not null then
        delete from perdure.waits w
        using json_to_recordset(work.disarmed) r(a integer, run uuid, trigger integer)
        where r.a <> all (losers) and w.run = r.run and w.trigger = r.trigger;
    end if;
    if work.inbox is not null then
        insert into perdure.inbox (run, shard, kind, event)
        select r.run, r.shard, r.kind, r.event
        from json_to_recordset(work.inbox) r(a integer, run uuid, shard smallint, kind text, event uuid)
        where r.a <> all (losers);
    end if;
    if work.consumed is not null then
        delete from perdure.inbox i
        using json_to_recordset(work.consumed) r(a integer, id bigint)
        where r.a <> all (losers) and i.id = r.id;
    end if;
end $$;
