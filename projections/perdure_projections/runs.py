"""The view ``runs``: a row for every run, with its status, its times and why it did not complete."""

from typing import get_args

from perdure_engine.run import events as e
from perdure_eventstore.keeper import ERASED
from perdure_projections.projection import Projection, sql_names, type_names
from perdure_projections.statement import fold, member, message

TYPES = (*type_names(get_args(e.RunEvent)), ERASED)
ENDED = type_names(e.RUN_ENDED)

# A part of the payload, but for events of version 1, where it stands among the engine's facts.
_KEY = f"""coalesce(started.data ->> 'key', {member("started", "key")} #>> '{{}}')"""

_END_STATUS = """case ended.type when 'RunCompleted' then 'completed' when 'RunFailed' then 'failed'
            when 'RunTimedOut' then 'timed_out' else 'cancelled' end"""

_TASKS = """(select string_agg(task_id, ', ') || ' failed'
                    from json_array_elements_text(ended.data -> 'tasks') task_id)"""

# Its own error, or which of its tasks failed.
_FAILURE = f"""coalesce(
                (select {message("failed")} from events failed where failed.position = f.last), {_TASKS})"""

# Of each run in the range: what is counted, and the events that say how it began and ended. Whether a run is new is
# known without looking, since RunStarted is its first event: new rows are inserted, the others updated. So folding a
# start twice is an error, not a wrong count. An erasure takes the error's text from the view too.
STATEMENT = f"""
with folded as materialized (
    select stream, count(*) filter (where type <> '{ERASED}') as events,
        max(version) filter (where type <> '{ERASED}') as version, bool_or(type = '{ERASED}') as erased,
        count(*) filter (where type = 'TaskScheduled' and data ->> 'attempt' = '1') as tasks,
        bool_or(type = 'RunStopping') as stopping,
        max(version) filter (where type = 'RunPaused') as paused,
        max(version) filter (where type = 'RunResumed') as resumed,
        max(position) filter (where type = 'RunStarted') as first,
        max(position) filter (where type in ({sql_names(ENDED)})) as last
    from events where position > %(first)s and position <= %(last)s and type in ({sql_names(TYPES)})
    group by stream
), seen as materialized (
    select f.*, ended.recorded_at as ended_at,
        case when ended.type is not null then {_END_STATUS} when f.stopping then 'stopping'
            when f.paused > coalesce(f.resumed, 0) then 'paused' when f.resumed > 0 then 'open' end as status,
        case ended.type
            when 'RunFailed' then {_FAILURE}
            when 'RunTimedOut' then 'its deadline passed'
            when 'RunCancelled' then nullif(ended.data ->> 'reason', '') end as error
    from folded f left join events ended on ended.position = f.last
), inserted as (
    insert into runs
        (run, workflow_id, digest, status, key, event, started_at, ended_at, tasks, events, version, error)
    select s.stream, started.data ->> 'workflow_id', started.data ->> 'digest', coalesce(s.status, 'open'),
        {_KEY}, started.data ->> 'event', started.recorded_at, s.ended_at, s.tasks, s.events,
        s.version, s.error
    from seen s join events started on started.position = s.first
)
update runs r set status = case when r.ended_at is null then coalesce(s.status, r.status) else r.status end,
    ended_at = coalesce(s.ended_at, r.ended_at), tasks = r.tasks + s.tasks, events = r.events + s.events,
    version = coalesce(s.version, r.version),
    key = case when s.erased then (select started.data ->> 'key' from events started
        where started.stream = r.run and started.version = 1) else r.key end,
    error = case when s.erased and s.last is null and r.status = 'failed'
        then (select {_TASKS} from events ended where ended.stream = r.run and ended.type = 'RunFailed'
            order by ended.version desc limit 1)
        else coalesce(s.error, r.error) end
from seen s where s.first is null and r.run = s.stream"""

RUNS = Projection("runs", 2, TYPES, ("runs",), fold(STATEMENT))
