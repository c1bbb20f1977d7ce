-- What people query: views folded from the log, and how far each has come. All of it can be folded again.

create table perdure.projections (
    name text primary key,
    version integer not null,
    position bigint not null default 0,
    updated_at timestamptz not null default clock_timestamp(),
    error text
);
comment on table perdure.projections is 'How far each projection has folded the log; error says why one has stopped.';

create table perdure.runs (
    run uuid primary key,
    workflow_id text not null,
    digest text not null,
    status text not null,
    key text,
    event text,
    started_at timestamptz not null,
    ended_at timestamptz,
    tasks integer not null,
    events integer not null,
    version integer not null,
    error text
);
comment on table perdure.runs is 'Every run, as far as its events have been folded.';
comment on column perdure.runs.tasks is 'How many of its tasks have been scheduled at least once.';
comment on column perdure.runs.error is 'Why it did not complete.';
create index runs_started on perdure.runs (started_at desc, run);
create index runs_status on perdure.runs (status, started_at desc, run);
create index runs_workflow on perdure.runs (workflow_id, started_at desc, run);

create table perdure.tasks (
    run uuid not null,
    task_id text not null,
    status text not null,
    attempt integer not null,
    failures integer not null,
    interruptions integer not null,
    scheduled_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    retry_at timestamptz,
    node uuid,
    reason text,
    error text,
    primary key (run, task_id)
);
comment on table perdure.tasks is 'Every task that something has happened to; one that only waits has no row.';
comment on column perdure.tasks.attempt is 'The latest attempt; 0 for a task that never had one.';
comment on column perdure.tasks.failures is 'Attempts that failed or timed out.';
comment on column perdure.tasks.interruptions is 'Attempts whose node stopped or died.';
comment on column perdure.tasks.scheduled_at is 'When its latest attempt was scheduled; started_at likewise.';
comment on column perdure.tasks.reason is 'Why it was skipped.';
comment on column perdure.tasks.error is 'The message of its latest failure, even if a later attempt succeeded.';

-- A row changes two or three times in its first seconds: room on its page lets it change in place.
alter table perdure.runs set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
alter table perdure.tasks set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
alter table perdure.projections set (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
