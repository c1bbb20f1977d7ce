"""The view ``tasks``: a row for every task that something has happened to."""

from perdure_engine.run import events as e
from perdure_eventstore.keeper import ERASED
from perdure_projections.projection import Projection, sql_names, type_names
from perdure_projections.statement import fold, message

TYPES = type_names(
    (
        e.TaskDelayed,
        e.TaskScheduled,
        e.TaskStarted,
        e.TaskCompleted,
        e.TaskFailed,
        e.TaskTimedOut,
        e.TaskInterrupted,
        e.TaskSkipped,
        e.TaskCancelled,
    )
)

_TIMED_OUT = ("it took longer than ", "it did not start within ", "it gave no sign of life for ")

_STATUS = """case last.type when 'TaskDelayed' then 'delayed' when 'TaskScheduled' then 'scheduled'
            when 'TaskStarted' then 'started' when 'TaskCompleted' then 'completed'
            when 'TaskInterrupted' then 'interrupted' when 'TaskSkipped' then 'skipped'
            when 'TaskCancelled' then 'cancelled'
            else case when last.data ->> 'retry_at' is null then 'failed' else 'retrying' end end"""

_FAILURE = f"""(select case failure.type
                when 'TaskTimedOut' then case failure.data ->> 'limit' when 'schedule_to_start' then '{_TIMED_OUT[1]}'
                    when 'heartbeat' then '{_TIMED_OUT[2]}' else '{_TIMED_OUT[0]}' end
                    || (failure.data ->> 'timeout')::float8 || ' s'
                else {message("failure")} end
            from events failure where failure.position = f.failed)"""

_IS_TIME_OUT = " or ".join(f"starts_with(t.error, '{text}')" for text in _TIMED_OUT)

# Of each task in the range: what is counted, its last event, its last start and its last failure. What the last event
# says replaces the row's; counts are added; the rest gives way only to something newer. An erasure, which is of no
# task, takes the errors' texts from the view too, but for a time-out's, which is no payload.
STATEMENT = f"""
with folded as materialized (
    select stream, data ->> 'task_id' as task_id, max((data ->> 'attempt')::integer) as attempt,
        count(*) filter (where type in ('TaskFailed', 'TaskTimedOut')) as failures,
        count(*) filter (where type = 'TaskInterrupted') as interruptions,
        max(recorded_at) filter (where type = 'TaskScheduled') as scheduled_at,
        max(recorded_at) filter (where type = 'TaskStarted') as started_at,
        max(position) as last,
        max(position) filter (where type = 'TaskStarted') as begun,
        max(position) filter (where type in ('TaskFailed', 'TaskTimedOut')) as failed
    from events where position > %(first)s and position <= %(last)s and type in ({sql_names((*TYPES, ERASED))})
    group by stream, data ->> 'task_id'
), seen as (
    select f.*, {_STATUS} as status, begun.data ->> 'node' as node, last.recorded_at as last_at,
        (last.data ->> 'retry_at')::timestamptz as retry_at, last.data ->> 'reason' as reason,
        case when f.failed is not null then {_FAILURE} end as error
    from folded f join events last on last.position = f.last left join events begun on begun.position = f.begun
    where f.task_id is not null
), erased as materialized (
    select stream from folded where task_id is null
), cleared as (
    update tasks t set error = null from erased e
    where t.run = e.stream and not ({_IS_TIME_OUT})
        and not exists (select from seen s where s.stream = t.run and s.task_id = t.task_id)
)
insert into tasks as t (run, task_id, status, attempt, failures, interruptions, scheduled_at, started_at,
    ended_at, retry_at, node, reason, error)
select stream, task_id, status, coalesce(attempt, 0), failures, interruptions, scheduled_at, started_at,
    case when status in ('completed', 'failed', 'skipped', 'cancelled') then last_at end, retry_at, node::uuid, reason,
    error
from seen
on conflict (run, task_id) do update set status = excluded.status, attempt = greatest(t.attempt, excluded.attempt),
    failures = t.failures + excluded.failures, interruptions = t.interruptions + excluded.interruptions,
    scheduled_at = greatest(t.scheduled_at, excluded.scheduled_at),
    started_at = greatest(t.started_at, excluded.started_at), ended_at = excluded.ended_at,
    retry_at = excluded.retry_at, node = coalesce(excluded.node, t.node), reason = excluded.reason,
    error = case when excluded.failures > 0 then excluded.error
        when {_IS_TIME_OUT} or excluded.run not in (select stream from erased) then t.error end"""

TASKS = Projection("tasks", 2, (*TYPES, ERASED), ("tasks",), fold(STATEMENT))
