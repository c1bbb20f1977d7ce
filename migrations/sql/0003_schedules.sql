-- Schedules: when runs start by themselves. A row is what the events of the schedule's stream leave, but for the input
-- and the key of its runs, which stand in the event that is number "set_by" of the stream, encrypted where payloads are.

create table perdure.schedules (
    schedule uuid primary key,
    shard smallint not null,
    name text not null,
    workflow_id text not null,
    cron text not null,
    timezone text not null,
    overlap text not null,
    catch_up text not null,
    set_by integer not null,
    paused boolean not null,
    next_due timestamptz not null,
    last_due timestamptz,
    last_run uuid,
    waiting json,
    has_more boolean not null,
    constraint schedules_name unique (name)
);
comment on table perdure.schedules is 'Schedules that were set and not deleted.';
comment on column perdure.schedules.set_by is 'The version of the event that has the input and the key.';
comment on column perdure.schedules.waiting is 'Times that wait for an earlier run, and what is left of backfills.';
comment on column perdure.schedules.has_more is 'Its node has to look at it before it is due next.';
create index schedules_due on perdure.schedules (shard, next_due) where not paused;
create index schedules_more on perdure.schedules (shard) where has_more;
alter table perdure.schedules set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- A row is written whole; one that was deleted has nothing but its id.
create function perdure.write_schedules(schedules json, losers integer[]) returns void language plpgsql as $$
begin
    insert into perdure.schedules as s (schedule, shard, name, workflow_id, cron, timezone, overlap, catch_up, set_by,
                                        paused, next_due, last_due, last_run, waiting, has_more)
    select r.schedule, r.shard, r.name, r.workflow_id, r.cron, r.timezone, r.overlap, r.catch_up, r.set_by,
           r.paused, r.next_due, r.last_due, r.last_run, r.waiting, r.has_more
    from json_to_recordset(write_schedules.schedules) r(
        a integer, schedule uuid, shard smallint, name text, workflow_id text, cron text, timezone text, overlap text,
        catch_up text, set_by integer, paused boolean, next_due timestamptz, last_due timestamptz, last_run uuid,
        waiting json, has_more boolean)
    where r.a <> all (losers) and r.name is not null
    on conflict (schedule) do update set
        workflow_id = excluded.workflow_id, cron = excluded.cron, timezone = excluded.timezone,
        overlap = excluded.overlap, catch_up = excluded.catch_up, set_by = excluded.set_by, paused = excluded.paused,
        next_due = excluded.next_due, last_due = excluded.last_due, last_run = excluded.last_run,
        waiting = excluded.waiting, has_more = excluded.has_more;
    delete from perdure.schedules s
    using json_to_recordset(write_schedules.schedules) r(a integer, schedule uuid, name text)
    where r.a <> all (losers) and r.name is null and s.schedule = r.schedule;
end $$;
