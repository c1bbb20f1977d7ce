-- What the working set needs of pausing and of dispatch between nodes.

alter table perdure.nodes add column concurrency integer not null default 0;
comment on column perdure.nodes.concurrency is 'How many attempts it executes at once.';

alter table perdure.nodes add column load integer not null default 0;
comment on column perdure.nodes.load is 'How many attempts of its own runs it executes or has waiting, as of its last renewal.';

alter table perdure.nodes add column at_most_once text[] not null default '{}';
comment on column perdure.nodes.at_most_once is 'Those of its task types that it delivers at most once.';

alter table perdure.open_runs add column paused boolean not null default false;
alter table perdure.open_runs add column parked boolean not null default false;
comment on column perdure.open_runs.parked is 'It waits for events, timers or to be resumed: no node has to look at it.';
create index open_runs_active on perdure.open_runs (shard, run) where not parked;

alter table perdure.timers add column held boolean not null default false;
comment on column perdure.timers.held is 'Its run is paused: it waits until the run is resumed.';
drop index perdure.timers_due;
create index timers_due on perdure.timers (shard, due) where not held;

alter table perdure.inbox add column payload bytea;
comment on column perdure.inbox.payload is 'What an attempt on another node gave; sealed with its run''s key where payloads are.';

create table perdure.assignments (
    run uuid not null,
    task_id text not null,
    attempt integer not null,
    shard smallint not null,
    node uuid not null,
    token bigint not null,
    digest text not null,
    scheduled integer,
    failures integer not null,
    cancelled boolean not null default false,
    id bigint not null generated always as identity,
    primary key (run, task_id)
);
comment on table perdure.assignments is 'Attempts that a node executes for the owner of their run.';
comment on column perdure.assignments.token is 'The fencing token of the attempt.';
comment on column perdure.assignments.digest is 'The definition of the run.';
comment on column perdure.assignments.scheduled is 'The version of the event that has its inputs, where it is known.';
comment on column perdure.assignments.failures is 'Of the task before this attempt.';
comment on column perdure.assignments.cancelled is 'The owner wants it ended.';
comment on column perdure.assignments.id is 'Grows with every attempt.';
create index assignments_node on perdure.assignments (node, id);
create index assignments_shard on perdure.assignments (shard);
alter table perdure.assignments set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What one append writes and takes away again is written first: a retry that was due at once, a wait that ended as it
-- began. Only "closed" comes before everything, so that the key of a run that ends is free for one that starts.
-- Rows are looked for by "= any (array)" beside the join: of a table that looks empty and is full of dead rows, which
-- somebody's transaction keeps, a join alone may read everything.
create or replace function perdure.write_work(companion json, losers integer[], appends integer[], positions bigint[]) returns void
language plpgsql as $$
declare
    work record;
    first_positions bigint[];
    ended uuid[];
begin
    select * into work from json_to_record(companion) as w(
        definitions json, retired json, closed json, opened json, paused json, parked json,
        timers json, cleared json, waits json,
        disarmed json, inbox json, consumed json, assigned json, released json,
        schedules json);

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
        insert into perdure.open_runs (run, shard, workflow_id, key, started_at, parked)
        select r.run, r.shard, r.workflow_id, r.key, first_positions[r.a], coalesce(r.parked, false)
        from json_to_recordset(work.opened) r(a integer, run uuid, shard smallint, workflow_id text, key text,
                                              parked boolean)
        where r.a <> all (losers);
    end if;
    if work.parked is not null then
        with r as materialized (
            select * from json_to_recordset(work.parked) r(a integer, run uuid, parked boolean)
            where r.a <> all (losers))
        update perdure.open_runs o set parked = r.parked
        from r where o.run = any (array(select r.run from r)) and o.run = r.run;
    end if;
    if work.paused is not null then
        with r as materialized (
            select * from json_to_recordset(work.paused) r(a integer, run uuid, paused boolean)
            where r.a <> all (losers))
        update perdure.open_runs o set paused = r.paused
        from r where o.run = any (array(select r.run from r)) and o.run = r.run;
        with r as materialized (
            select * from json_to_recordset(work.paused) r(a integer, run uuid, paused boolean)
            where r.a <> all (losers))
        update perdure.timers t set held = r.paused
        from r where t.run = any (array(select r.run from r)) and t.run = r.run and t.timer <> 'deadline';
    end if;
    if work.timers is not null then
        insert into perdure.timers (run, timer, shard, due, held)
        select r.run, r.timer, r.shard, r.due, coalesce(r.held, false)
        from json_to_recordset(work.timers) r(a integer, run uuid, timer text, shard smallint, due timestamptz,
                                              held boolean)
        where r.a <> all (losers)
        on conflict (run, timer) do update set due = excluded.due, held = excluded.held;
    end if;
    if work.cleared is not null then
        with r as materialized (
            select * from json_to_recordset(work.cleared) r(a integer, run uuid, timer text)
            where r.a <> all (losers))
        delete from perdure.timers t
        using r where t.run = any (array(select r.run from r)) and t.run = r.run and t.timer = r.timer;
    end if;
    if work.waits is not null then
        insert into perdure.waits (run, trigger, event, key, armed_at)
        select r.run, r.trigger, r.event, r.key, coalesce(r.armed_at, first_positions[r.a])
        from json_to_recordset(work.waits) r(a integer, run uuid, trigger integer, event text, key text, armed_at bigint)
        where r.a <> all (losers);
    end if;
    if work.disarmed is not null then
        with r as materialized (
            select * from json_to_recordset(work.disarmed) r(a integer, run uuid, trigger integer)
            where r.a <> all (losers))
        delete from perdure.waits w
        using r where w.run = any (array(select r.run from r)) and w.run = r.run and w.trigger = r.trigger;
    end if;
    if work.inbox is not null then
        insert into perdure.inbox (run, shard, kind, event)
        select r.run, r.shard, r.kind, r.event
        from json_to_recordset(work.inbox) r(a integer, run uuid, shard smallint, kind text, event uuid)
        where r.a <> all (losers);
    end if;
    if work.consumed is not null then
        delete from perdure.inbox i where i.id = any (array(
            select r.id from json_to_recordset(work.consumed) r(a integer, id bigint) where r.a <> all (losers)));
    end if;
    if work.assigned is not null then
        insert into perdure.assignments (run, task_id, attempt, shard, node, token, digest, scheduled, failures)
        select r.run, r.task_id, r.attempt, r.shard, r.node, r.token, r.digest, r.scheduled, r.failures
        from json_to_recordset(work.assigned) r(a integer, run uuid, task_id text, attempt integer, shard smallint,
                                                node uuid, token bigint, digest text, scheduled integer,
                                                failures integer)
        where r.a <> all (losers)
        on conflict (run, task_id) do update set attempt = excluded.attempt, node = excluded.node,
            token = excluded.token, digest = excluded.digest, scheduled = excluded.scheduled,
            failures = excluded.failures, cancelled = false, id = default;
    end if;
    if work.released is not null then
        with r as materialized (
            select * from json_to_recordset(work.released) r(a integer, run uuid, task_id text)
            where r.a <> all (losers))
        delete from perdure.permits p
        using r where p.run = any (array(select r.run from r)) and p.run = r.run and p.task_id = r.task_id;
    end if;
    if work.schedules is not null then
        perform perdure.write_schedules(work.schedules, losers);
    end if;
end $$;

create or replace function perdure.command(run uuid, command text, reason text default '') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if command.run is null then
        perform perdure.refuse('a command names the run it is for');
    elsif command.command is null or command.command not in ('cancel', 'pause', 'resume') then
        perform perdure.refuse(format('there is no command %L; there are cancel, pause and resume', command.command));
    elsif length(command.reason) > 1000 then
        perform perdure.refuse(format('a reason has at most 1000 characters, not %s', length(command.reason)));
    end if;
    perform perdure.stage_row(
        gen_random_uuid(), '{}', '{}', '{}', '{}', '{}', '{}',
        json_build_object('run', command.run, 'kind', command.command,
                          'detail', json_build_object('reason', coalesce(command.reason, ''))));
end $$;
comment on function perdure.command is
    'Cancel, pause or resume a run as this transaction commits; one that has ended is left as it is.';
