-- Snapshots: a faster reload of long runs. No promise depends on them.

create table perdure.snapshots (
    run uuid primary key,
    version integer not null,
    hash bytea not null,
    format text not null,
    state bytea not null,
    taken_at timestamptz not null default clock_timestamp()
);
comment on table perdure.snapshots is
    'The state of long runs at an event of theirs, for a faster reload. May be deleted at any time.';
comment on column perdure.snapshots.format is 'A digest of the code that wrote it, and alone can read it.';
comment on column perdure.snapshots.state is 'What users gave and got stands in it: it goes when that is erased.';

-- It is compressed already. Rows are few and replaced whole.
alter table perdure.snapshots alter column state set storage external;
alter table perdure.snapshots set (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000);
