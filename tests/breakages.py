"""Every way to break the working set by hand, each with the row that the doctor must name."""

from typing import Any
from uuid import UUID

from doctoring import Log

from perdure_engine.identity import schedule_stream, shard_of

# By hand: what is done, with {run} and {event} of those named, and the row that must be named.
Breakage = tuple[str, str, dict[str, Any]]

BREAKAGES: dict[str, Breakage] = {
    "an open run is not there": (
        "delete from perdure.open_runs where run = {waiting}", "open_runs", {"run": "waiting"}
    ),
    "a keyed run is not there": ("delete from perdure.open_runs where run = {keyed}", "open_runs", {"run": "keyed"}),
    "an ended run is there": (
        "insert into perdure.open_runs (run, shard, workflow_id, started_at) values ({ended}, 3, 'simple', 1)",
        "open_runs", {"run": "ended"},
    ),
    "a run that never was is there": (
        "insert into perdure.open_runs (run, shard, workflow_id, started_at) values ({nobody}, 3, 'simple', 1)",
        "open_runs", {"run": "nobody"},
    ),
    "a run has another shard": (
        "update perdure.open_runs set shard = (shard + 1) % 64 where run = {slow}", "open_runs", {"run": "slow"}
    ),
    "a run has another key": (
        "update perdure.open_runs set key = 'b' where run = {keyed}", "open_runs", {"run": "keyed"}
    ),
    "a run is of another workflow": (
        "update perdure.open_runs set workflow_id = 'slow' where run = {waiting}", "open_runs", {"run": "waiting"}
    ),
    "a run started elsewhere": (
        "update perdure.open_runs set started_at = started_at + 1 where run = {waiting}", "open_runs",
        {"run": "waiting"},
    ),
    "a run that is active is taken for parked": (
        "update perdure.open_runs set parked = true where run = {slow}", "open_runs", {"run": "slow"}
    ),
    "a run is paused": (
        "update perdure.open_runs set paused = true where run = {waiting}", "open_runs", {"run": "waiting"}
    ),
    "a timer is not there": (
        "delete from perdure.timers where run = {retried}", "timers", {"run": "retried", "timer": "retry:shaky"}
    ),
    "a timer is due at another time": (
        "update perdure.timers set due = due + interval '1 us' where run = {retried}", "timers",
        {"run": "retried", "timer": "retry:shaky"},
    ),
    "a timer is held": (
        "update perdure.timers set held = true where run = {waiting}", "timers", {"run": "waiting", "timer": "wait:1"}
    ),
    "a timer is in another shard": (
        "update perdure.timers set shard = (shard + 1) % 64 where run = {waiting}", "timers",
        {"run": "waiting", "timer": "wait:1"},
    ),
    "a timer too many": (
        "insert into perdure.timers (run, timer, shard, due) values ({slow}, 'retry:long', 3, now())", "timers",
        {"run": "slow", "timer": "retry:long"},
    ),
    "a timer of an ended run": (
        "insert into perdure.timers (run, timer, shard, due) values ({stopped}, 'deadline', 3, now())", "timers",
        {"run": "stopped", "timer": "deadline"},
    ),
    "a wait is not there": (
        "delete from perdure.waits where run = {direct} and trigger = 1", "waits", {"run": "direct", "trigger": 1}
    ),
    "a wait too many": (
        "insert into perdure.waits (run, trigger, event, armed_at) values ({waiting}, 2, 'allowed', 1)", "waits",
        {"run": "waiting", "trigger": 2},
    ),
    "a wait for another event": (
        "update perdure.waits set event = 'other' where run = {keyed}", "waits", {"run": "keyed", "trigger": 1}
    ),
    "a wait with another key": (
        "update perdure.waits set key = null where run = {keyed}", "waits", {"run": "keyed", "trigger": 1}
    ),
    "a wait counts from elsewhere": (
        "update perdure.waits set armed_at = armed_at + 7 where run = {waiting}", "waits",
        {"run": "waiting", "trigger": 1},
    ),
    "a definition is not there": (
        "delete from perdure.definitions where workflow_id = 'keyed'", "definitions",
        {"workflow_id": "keyed", "number": 1},
    ),
    "a definition too many": (
        "insert into perdure.definitions select 'nobodys', number, digest, document, events, keyed, registered_at"
        " from perdure.definitions where workflow_id = 'slow'",
        "definitions", {"workflow_id": "nobodys", "number": 1},
    ),
    "a definition of another time": (
        "update perdure.definitions set registered_at = 10000 where workflow_id = 'slow'", "definitions",
        {"workflow_id": "slow", "number": 1},
    ),
    "a definition that is not retired": (
        "update perdure.definitions set retired_at = null where workflow_id = 'old'", "definitions",
        {"workflow_id": "old", "number": 1},
    ),
    "a definition that is retired": (
        "update perdure.definitions set retired_at = 10000 where workflow_id = 'slow'", "definitions",
        {"workflow_id": "slow", "number": 1},
    ),
    "a definition of another text": (
        "update perdure.definitions set document = '{{}}' where workflow_id = 'slow'", "definitions",
        {"workflow_id": "slow", "number": 1},
    ),
    "a definition that hears other events": (
        "update perdure.definitions set events = array['x'] where workflow_id = 'slow'", "definitions",
        {"workflow_id": "slow", "number": 1},
    ),
    "an event that the run has seen": (
        "insert into perdure.inbox (run, shard, kind, event) values ({waiting}, {its_shard}, 'event', {allowed})",
        "inbox", {},
    ),
    "an event that was delivered to nobody": (
        "insert into perdure.inbox (run, shard, kind, event) values ({waiting}, {its_shard}, 'event', {nobody})",
        "inbox", {},
    ),
    "an event for a run that never was": (
        "insert into perdure.inbox (run, shard, kind, event) values ({nobody}, 0, 'event', {allowed})", "inbox", {},
    ),
    "a run to adopt that never was": (
        "insert into perdure.inbox (run, shard, kind) values ({nobody}, 0, 'started')", "inbox", {}
    ),
    "a command in another shard": (
        "insert into perdure.inbox (run, shard, kind) values ({waiting}, ({its_shard} + 1) % 64, 'cancel')",
        "inbox", {},
    ),
    "an attempt that is not under way": (
        "insert into perdure.assignments (run, task_id, attempt, shard, node, token, digest, failures)"
        " values ({waiting}, 'first', 1, {its_shard}, {nobody}, 1, '', 0)",
        "assignments", {"run": "waiting", "task_id": "first"},
    ),
    "an attempt of an ended run": (
        "insert into perdure.assignments (run, task_id, attempt, shard, node, token, digest, failures)"
        " values ({ended}, 'only', 1, 0, {nobody}, 1, '', 0)",
        "assignments", {"run": "ended", "task_id": "only"},
    ),
    "a permit of a run that has ended": (
        "insert into perdure.permits (key, run, task_id) values ('one', {ended}, 'only')", "permits", {"run": "ended"}
    ),
    "the router is beyond the log": ("update perdure.router set position = 10000", "router", {"id": 1}),
    "the router passed over an event": (
        "update perdure.router set position = (select max(position) from perdure.events)", "router", {"id": 1}
    ),
    "the router's place is not there": ("delete from perdure.router", "router", {"id": 1}),
    "a shard is not there": ("delete from perdure.shards where shard = 7", "shards", {"shard": 7}),
    "a shard too many": ("insert into perdure.shards (shard) values (64)", "shards", {"shard": 64}),
    "a schedule is not there": (
        "delete from perdure.schedules where name = 'backfilled'", "schedules",
        {"schedule": schedule_stream("backfilled")},
    ),
    "a schedule that was deleted is there": (
        "insert into perdure.schedules (schedule, shard, name, workflow_id, cron, timezone, overlap, catch_up, set_by,"
        f" paused, next_due, has_more) values ('{schedule_stream('gone')}', 0, 'gone', 'waiting', '@daily', 'UTC',"
        " 'skip', 'all', 1, false, now(), false)",
        "schedules", {"schedule": schedule_stream("gone")},
    ),
    "a schedule that never was is there": (
        "insert into perdure.schedules (schedule, shard, name, workflow_id, cron, timezone, overlap, catch_up, set_by,"
        " paused, next_due, has_more) values ({nobody}, 7, 'nobodys', 'waiting', '@daily', 'UTC', 'skip', 'all', 1,"
        " false, now(), false)",
        "schedules", {"schedule": UUID(int=7)},
    ),
    **{
        f"a schedule whose {column} is another": (
            f"update perdure.schedules set {column} = {value} where name = '{name}'", "schedules",
            {"schedule": schedule_stream(name)},
        )
        for name, column, value in (
            ("paused", "shard", "(shard + 1) % 64"),
            ("paused", "paused", "false"),
            ("paused", "next_due", "next_due + interval '1 min'"),
            ("paused", "last_run", "schedule"),
            ("paused", "last_due", "now()"),
            ("paused", "has_more", "true"),
            ("paused", "set_by", "2"),
            ("paused", "waiting", """'{{"queue":["2026-01-01T00:00:00Z"]}}'"""),
            ("backfilled", "has_more", "false"),
            ("backfilled", "waiting", "null"),
            ("backfilled", "waiting ", "replace(waiting::text, '2026-01-05', '2026-01-06')::json"),
            ("backfilled", "workflow_id", "'simple'"),
            ("backfilled", "cron", "'30 3 * * *'"),
            ("backfilled", "timezone", "'UTC'"),
            ("backfilled", "overlap", "'allow'"),
            ("backfilled", "catch_up", "'all'"),
        )
    },
    "a schedule of another name": (
        "update perdure.schedules set name = 'renamed' where name = 'paused'", "schedules",
        {"schedule": schedule_stream("paused")},
    ),
    "something staged was left behind": (
        "insert into perdure.staged (stream, bytes, ids, types, schema_versions, data, metadata, payloads)"
        " values ({nobody}, 0, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}')",
        "staged", {},
    ),
}  # fmt: skip


def broken_by(log: Log, statement: str) -> str:
    """``statement`` with the ids of this log."""
    ids = {**log.runs, **{name: id_ for name, id_ in log.events.items() if name not in log.runs}, "nobody": UUID(int=7)}
    named = {name: f"'{id_}'" for name, id_ in ids.items()}
    return statement.format(**named, its_shard=shard_of(log.runs["waiting"]))


def of_this(log: Log, where: dict[str, Any]) -> dict[str, Any]:
    return {
        column: {**log.runs, "nobody": UUID(int=7)}[value] if column == "run" else value
        for column, value in where.items()
    }
