"""The verbs and their options. What each does is in the module it imports."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from perdure.cli.schedule_verbs import schedule
from perdure.cli.verb import Common, verb

app = typer.Typer(
    help="Dynamic, event-driven workflows that outlast outages, on the Postgres you already have.",
    add_completion=False,
    no_args_is_help=True,
    epilog="Exit status: 0 done, 1 failed (the run, the check), 2 wrong use, 3 still open at the time-out, "
    "4 no database.",
)
keys = typer.Typer(help="The master keys of encrypted payloads.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(schedule, name="schedule")

Exit = Coroutine[Any, Any, int]
_HOW = "JSON, @FILE, or - for standard input."
_PLACE = "A time such as 2026-01-31T12:00:00Z, or a position such as p5000."

Files = Annotated[list[str], typer.Argument(metavar="FILE…", help="Definitions, in JSON or YAML.")]
Workflow = Annotated[str, typer.Argument(metavar="WORKFLOW", help="A workflow_id.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or `last`.")]
Data = Annotated[str, typer.Option("--data", metavar="JSON", help=f"The event's payload: {_HOW}")]
Key = Annotated[str | None, typer.Option("--key", help="Which run of the workflow it is for: one open run a key.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Timeout = Annotated[str | None, typer.Option("--timeout", help="How long to wait: seconds, or 90s, 15m, 2h.")]
Archive = Annotated[str | None, typer.Option("--archive", metavar="FILE", help="Where an archived run's file is now.")]
AllowUnknown = Annotated[
    bool, typer.Option("--allow-unknown-types", help="Take task types that no node has a handler for yet.")
]


@verb(app)
def demo(
    common: Common,
    folder: Annotated[str, typer.Option("--folder", help="Where its database lives.")] = ".perdure-demo",
) -> Exit:
    """Tell the story in a minute: run, kill, resume, verify."""
    from perdure.demo.story import tell

    return tell(common, folder)


@verb(app)
def run(
    common: Common,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A definition, in JSON or YAML.")],
    event: Annotated[str, typer.Option("--event", metavar="NAME", help="The event to publish.")],
    data: Data = "{}",
    key: Key = None,
    timeout: Timeout = None,
    allow_unknown_types: AllowUnknown = False,
) -> Exit:
    """Register a definition, publish an event, and work until the runs it starts have ended."""
    from perdure.cli.run import run_file

    return run_file(common, file, event, data, key, timeout, allow_unknown_types)


@verb(app)
def up(common: Common) -> Exit:
    """Run a node until Ctrl-C. The database has to be named."""
    from perdure.cli.up import work

    return work(common)


@verb(app)
def validate(common: Common, files: Files) -> int:
    """Check definitions without a database."""
    from perdure.cli.validate import check_files

    return check_files(common, files)


@verb(app)
def register(common: Common, files: Files, allow_unknown_types: AllowUnknown = False) -> Exit:
    """Make definitions their workflows' newest versions."""
    from perdure.cli.register import register_files

    return register_files(common, files, allow_unknown_types)


@verb(app)
def retire(common: Common, workflow: Workflow) -> Exit:
    """Start no more runs of a workflow; those under way go on."""
    from perdure.cli.definitions import retire_workflow

    return retire_workflow(common, workflow)


@verb(app)
def definitions(
    common: Common,
    workflow: Annotated[str | None, typer.Argument(metavar="[WORKFLOW]", help="One workflow's versions only.")] = None,
) -> Exit:
    """List the registered versions of workflows."""
    from perdure.cli.definitions import list_definitions

    return list_definitions(common, workflow)


@verb(app)
def schema(
    common: Common,
    events: Annotated[bool, typer.Option("--events", help="That of every event type in the log.")] = False,
) -> int:
    """Print the JSON Schema of definitions, or of events."""
    from perdure.cli.schema import print_schema

    return print_schema(common, events)


@verb(app)
def publish(
    common: Common,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name.")],
    data: Data = "null",
    key: Key = None,
    event_id: Annotated[str | None, typer.Option("--id", metavar="UUID", help="The same id again is no-op.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Reach this run alone.")] = None,
) -> Exit:
    """Record an event; a node routes it to the runs it concerns."""
    from perdure.cli.publish import publish_event

    return publish_event(common, event, data, key, event_id, run)


@verb(app)
def start(
    common: Common,
    workflow: Workflow,
    input: Annotated[str, typer.Option("--input", metavar="JSON", help=f"The run's input: {_HOW}")] = "{}",
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="UUID", help="The same id again is no-op.")] = None,
    event: Annotated[str | None, typer.Option("--event", metavar="NAME", help="The entry it starts with.")] = None,
    key: Key = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it ends, and show it.")] = False,
    timeout: Timeout = None,
) -> Exit:
    """Start a run of a workflow's newest version."""
    from perdure.cli.start import start_run

    return start_run(common, workflow, input, run_id, event, key, wait, timeout)


@verb(app)
def cancel(
    common: Common,
    run: RunName,
    reason: Reason = "",
) -> Exit:
    """Stop a run: what is under way is cancelled. One that has ended is left as it is."""
    from perdure.cli.commanding import command_run

    return command_run(common, "cancel", run, reason)


@verb(app)
def pause(common: Common, run: RunName, reason: Reason = "") -> Exit:
    """Start nothing of a run until it is resumed. Events still reach it, and what is under way goes on."""
    from perdure.cli.commanding import command_run

    return command_run(common, "pause", run, reason)


@verb(app)
def resume(common: Common, run: RunName, reason: Reason = "") -> Exit:
    """Let a paused run go on."""
    from perdure.cli.commanding import command_run

    return command_run(common, "resume", run, reason)


@verb(app)
def runs(
    common: Common,
    status: Annotated[
        str | None,
        typer.Option("--status", help="open, paused, stopping, completed, failed, timed_out or cancelled."),
    ] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Those of one workflow.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
) -> Exit:
    """List runs, the latest first."""
    from perdure.cli.runs import print_runs

    return print_runs(common, status, workflow, limit)


@verb(app)
def show(common: Common, run: RunName, archive: Archive = None) -> Exit:
    """Show a run: its tasks, its result."""
    from perdure.cli.show import show_run

    return show_run(common, run, archive)


@verb(app)
def history(common: Common, run: RunName, archive: Archive = None) -> Exit:
    """Show every event of a run."""
    from perdure.cli.history import print_history

    return print_history(common, run, archive)


@verb(app)
def erase(
    common: Common,
    run: RunName,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded.")] = "",
    actor: Annotated[str, typer.Option("--actor", help="Who asked for it; it is recorded.")] = "",
    archive: Archive = None,
) -> Exit:
    """Take what an ended run, a published event or a deleted schedule was given and gave out of the log, for ever."""
    from perdure.cli.erase import erase_run

    return erase_run(common, run, reason, actor, archive)


@verb(app)
def archive(
    common: Common,
    older_than: Annotated[str, typer.Option("--older-than", metavar="TIME", help="Since they ended: 90d, 12h.")],
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="Where the files go.")],
    workflow: Annotated[str | None, typer.Option("--workflow", help="Runs of one workflow only.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")] = None,
) -> Exit:
    """Move ended runs, and published events that were routed, out of the log and into files."""
    from perdure.cli.archive import archive_old

    return archive_old(common, older_than, to, workflow, limit)


@verb(app)
def verify(
    common: Common,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The chain of one run only.")] = None,
    heads: Annotated[str | None, typer.Option("--heads", metavar="FILE", help="Heads as they were published.")] = None,
    public_key: Annotated[
        list[str] | None, typer.Option("--public-key", metavar="FILE", help="Who may have signed; may be repeated.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="FILE", help="Keep the place in FILE, and go on from there.")
    ] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="FILE", help="Check a bundle instead, with no database.")
    ] = None,
) -> Exit | int:
    """Check that no event of the log was changed, moved or removed: chains, payloads, tree and heads."""
    if bundle is not None:
        from perdure.cli.bundle import check_file

        return check_file(common, bundle, public_key or [], others=(run, heads, resume))
    from perdure.cli.verify import check_log

    return check_log(common, run, heads, public_key or [], resume)


@verb(app)
def doctor(
    common: Common,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild what is wrong, beside running nodes.")] = False,
) -> Exit:
    """Check that the working set (open runs, timers, waits, inbox, …) is what the log says."""
    from perdure.cli.doctor import check_working_set

    return check_working_set(common, repair)


@verb(app)
def export(
    common: Common,
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN…]", help="Runs, or nothing with --all.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="The whole log.")] = False,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help=_PLACE)] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help=_PLACE)] = None,
    form: Annotated[str, typer.Option("--format", help="jsonl or cloudevents.")] = "jsonl",
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="A .gz is compressed.")] = "-",
    definitions: Annotated[
        bool, typer.Option(help="With the runs also their definitions, without which they cannot go on elsewhere.")
    ] = True,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="FILE", help="One run, with the proof that it is in the log.")
    ] = None,
) -> Exit:
    """Write runs, a part of the log or all of it to a file, loss-free."""
    if bundle is not None:
        from perdure.cli.bundle import bundle_run

        return bundle_run(common, runs or [], bundle)
    from perdure.cli.export import Wanted, export_events

    return export_events(common, Wanted(tuple(runs or ()), all_, since, until, definitions), form, output)


@verb(app, "import")
def import_(
    common: Common, file: Annotated[str, typer.Argument(metavar="FILE", help="An export, or - for standard input.")]
) -> Exit:
    """Take in what was exported from a log: all of the file or nothing. What is there already is passed over."""
    from perdure.cli.importing import import_events

    return import_events(common, file)


@verb(app)
def sign(common: Common) -> Exit:
    """Sign a head of the log as it is now, publish and print it. PERDURE_HEADS_KEY names the key."""
    from perdure.cli.sign import sign_head

    return sign_head(common)


@verb(app)
def keygen(
    common: Common, file: Annotated[str, typer.Argument(metavar="FILE", help="Where the private key will be.")]
) -> int:
    """Make the key that heads are signed with: FILE, and FILE.pub for those who check."""
    from perdure.cli.keygen import make_key

    return make_key(common, file)


@verb(app)
def migrate(
    common: Common,
    grant: Annotated[
        str | None,
        typer.Option("--grant", metavar="ROLE", help="Let this role run nodes and clients, and do nothing else."),
    ] = None,
) -> Exit:
    """Bring the database to this version of Perdure."""
    from perdure.cli.migrate import migrate_database

    return migrate_database(common, grant)


@verb(keys, "new")
def keys_new(
    common: Common,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where the key will be, for its owner alone.")],
    add: Annotated[bool, typer.Option("--add", help="Put a newer key into a file that is there.")] = False,
) -> int:
    """Make a master key."""
    from perdure.cli.keys import new_key

    return new_key(common, file, add)


@verb(keys, "rotate")
def keys_rotate(common: Common) -> Exit:
    """Wrap every run's key with the newest master key."""
    from perdure.cli.keys import rotate_keys

    return rotate_keys(common)
