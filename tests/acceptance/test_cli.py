"""The command line, as people and programs meet it: real processes, their output and their exit statuses."""

import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from command_line import PERDURE, Answer, environment, perdure, started
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

from perdure_eventstore.hashing import event_hash, payload_digest

EXAMPLE = Path(__file__).parents[2] / "examples" / "user_registration.json"
DATA = '{"user_email": "ada@example.org", "user_data": {"name": "Ada", "kept": [1.10, 1e16, -0.0]}}'
WAITING = {
    "workflow_id": "waiting",
    "deadline": "1d",
    "tasks": [
        {"task_id": "first", "type": "database", "triggers": ["begun"]},
        {"task_id": "second", "type": "database", "triggers": [{"event": "approved", "within": "1d"}]},
    ],
    "start": ["begun"],
}
FAILING = {
    "workflow_id": "failing",
    "tasks": [{"task_id": "nobody", "type": "email", "inputs": {"to": "not an address"}, "triggers": ["begun"]}],
}


def written(folder: Path, definition: dict[str, Any]) -> str:
    file = folder / f"{definition['workflow_id']}.json"
    file.write_text(json.dumps(definition))
    return str(file)


def events_in(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select count(*) from perdure.events").fetchone()
    return row[0] if row else 0


def recomputed(line: dict[str, Any], texts: dict[str, bytes], previous: bytes | None) -> bytes:
    """The hash of an event out of what ``history --json`` prints of it."""
    digest = None
    if line["payload"] is not None:
        digest = payload_digest(bytes.fromhex(line["payload_salt"]), texts["payload"])
        assert digest.hex() == line["payload_digest"]
    moment = datetime.fromisoformat(line["recorded_at"]) - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    micros = (moment.days * 86_400 + moment.seconds) * 1_000_000 + moment.microseconds
    return event_hash(
        previous, UUID(line["stream"]).bytes, line["version"], UUID(line["id"]).bytes, line["type"].encode(),
        line["schema_version"], micros, texts["data"], texts["metadata"], digest,
    )  # fmt: skip


def texts_of(line: str) -> dict[str, bytes]:
    """The spliced-in texts, as they stand in the line."""
    found = re.fullmatch(
        r'.*?"data":(?P<data>.*),"payload":(?P<payload>.*),"metadata":(?P<metadata>.*),"hash":.*', line
    )
    assert found is not None
    return {name: text.encode() for name, text in found.groupdict().items()}


def test_the_seeds_example_runs_as_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    ran = perdure(
        folder, "run", str(EXAMPLE), "--event", "user_registered", "--data", DATA, "--json"
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert "embedded:.perdure" in ran.err
    (run,) = ran.lines
    assert {task["task_id"]: task["status"] for task in run["tasks"]} == {
        "send_welcome_email": "completed",
        "create_user_profile": "completed",
    }
    assert "ada@example.org" in Path(run["result"]["send_welcome_email"]["file"]).read_text()

    history = perdure(folder, "history", "last", "--json")
    lines = history.lines
    assert [line["version"] for line in lines] == list(range(1, len(lines) + 1))
    assert (lines[0]["type"], lines[-1]["type"]) == ("RunStarted", "RunCompleted")
    assert "[1.10, 1e16, -0.0]" in history.out
    previous = None
    for line, written_line in zip(lines, history.out.splitlines(), strict=True):
        previous = recomputed(line, texts_of(written_line), previous)
        assert previous.hex() == line["hash"]

    (listed,) = perdure(folder, "runs", "--json").lines
    assert {"run_id", "workflow_id", "status", "started_at", "ended_at"} <= listed.keys()
    assert (listed["run_id"], listed["status"]) == (run["run_id"], "completed")
    below = folder / "below"
    below.mkdir()
    shown = perdure(below, "show", run["run_id"][:9])
    assert shown.status == 0 and "create_user_profile" in shown.out
    assert "embedded:../.perdure" in shown.err


def test_without_a_terminal_nothing_is_coloured(tmp_path: Path, database_url: str) -> None:
    for arguments in (("runs",), ("definitions",), ("--help",)):
        assert "\x1b" not in perdure(tmp_path, *arguments, PERDURE_DATABASE_URL=database_url).out


def test_a_run_that_fails_is_status_1(tmp_path: Path, database_url: str) -> None:
    definition = written(tmp_path, FAILING)
    ran = perdure(tmp_path, "run", definition, "--event", "begun", "--json", PERDURE_DATABASE_URL=database_url)
    assert ran.status == 1
    assert [line["status"] for line in ran.lines] == ["failed"]


def test_an_event_that_starts_nothing_is_status_1_and_names_the_near_ones(tmp_path: Path, database_url: str) -> None:
    ran = perdure(tmp_path, "run", str(EXAMPLE), "--event", "user_registerd", "--database", database_url)
    assert ran.status == 1
    assert "did you mean user_registered?" in ran.err


def test_a_run_still_open_at_the_time_out_is_status_3(tmp_path: Path, database_url: str) -> None:
    arguments = ("run", written(tmp_path, WAITING), "--event", "begun", "--timeout", "1", "--json")
    ran = perdure(tmp_path, *arguments, PERDURE_DATABASE_URL=database_url)
    assert ran.status == 3, ran.err
    assert [line["status"] for line in ran.lines] == ["open"]
    assert ran.lines[0]["waiting"] == ["second"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["up"], "--database embedded:.perdure or --database postgresql://"),
        (["runs", "--database", "mysql://x"], "'mysql' names no database"),
        (["run"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["runs", "--status", "strange"], "--status takes one of"),
        (["start", "w", "--input", "{", "--database", "embedded:x"], "not JSON"),
        (["validate", "nowhere.json"], "nowhere.json cannot be read: No such file or directory"),
        (["runs", "--app", "nowhere"], "there is no such module"),
        (["runs", "--app", "json"], "holds no perdure.App"),
        (["publish", "e", "--id", "7", "--database", "embedded:x"], "--id takes a UUID"),
        (["publish", "e", "--id", "7" * 9_999, "--database", "embedded:x"], "--id takes a UUID"),
    ],
)
def test_wrong_use_is_status_2_and_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    answer = perdure(tmp_path, *arguments)
    assert answer.status == 2
    assert sentence in answer.err
    assert len(answer.err.splitlines()) == 1
    assert len(answer.err) < 1_000
    assert not answer.out
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    answer = perdure(tmp_path, "runs", PERDURE_DATABSE_URL="embedded:.perdure")
    assert (answer.status, "PERDURE_DATABASE_URL" in answer.err) == (2, True)


def test_no_database_is_status_4(tmp_path: Path, postgres_url: str) -> None:
    unmigrated = make_url(postgres_url).set(database="postgres").render_as_string(hide_password=False)
    for name in ("postgresql://nobody@127.0.0.1:1/none", unmigrated):
        answer = perdure(tmp_path, "runs", "--json", "--database", name)
        assert answer.status == 4, answer
        assert len(answer.err.splitlines()) == 1
        assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ('{"n": NaN}', "NaN is not JSON"),
        ('"\\ud800"', "lone surrogate"),
        ('"\\u0000"', "U+0000"),
        ("[" * 10_000 + "]" * 10_000, "nested more than"),
        ('{"n": 18446744073709551616}', "beyond 64 bits"),
        (b'"\xff"', "not valid UTF-8"),
        ('"' + "x" * 17_000_000 + '"', "limit of 16,777,216"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_sentence(
    tmp_path: Path, database_url: str, data: str | bytes, sentence: str
) -> None:
    given = ("run", str(EXAMPLE), "--event", "user_registered", "--data", "-", "--json")
    answer = perdure(tmp_path, *given, stdin=data, PERDURE_DATABASE_URL=database_url)
    assert answer.status == 2
    assert sentence in answer.err or "16,777,216 bytes" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not answer.out
    assert events_in(database_url) == 0


def test_a_definition_is_refused_with_every_fault(tmp_path: Path, database_url: str) -> None:
    task = {"task_id": "a", "type": "email", "inputs": {"to": "{{nobody.}}"}, "triggers": ["b.completed"]}
    file = written(tmp_path, {"workflow_id": "bad", "tasks": [task, task]})
    offline = perdure(tmp_path, "validate", file)
    assert offline.status == 1
    assert all(
        pointer in offline.out for pointer in ("/tasks/0/triggers/0: ", "/tasks/1/task_id: ", "/tasks/0/inputs/to")
    )
    (line,) = perdure(tmp_path, "validate", file, "--json").lines
    assert not line["valid"] and {"pointer", "message"} == set(line["faults"][0])
    refused = perdure(tmp_path, "register", file, "--database", database_url)
    assert refused.status == 1
    assert refused.err.count("/tasks/") >= 3
    assert events_in(database_url) == 0


def test_offline_an_unknown_task_type_is_a_warning(tmp_path: Path) -> None:
    file = written(tmp_path, {"workflow_id": "w", "tasks": [{"task_id": "a", "type": "mine", "triggers": ["e"]}]})
    answer = perdure(tmp_path, "validate", file, str(EXAMPLE))
    assert answer.status == 0
    assert "warning" in answer.out and "`mine`" in answer.out


def test_publish_start_and_definitions_without_a_node(tmp_path: Path, database_url: str) -> None:
    def call(*arguments: str) -> Answer:
        return perdure(tmp_path, *arguments, "--json", PERDURE_DATABASE_URL=database_url)

    assert [line["created"] for line in call("register", str(EXAMPLE)).lines] == [True]
    published = call("publish", "user_registerd", "--data", "{}")
    assert published.status == 0 and published.lines[0]["matches"] is None
    assert "no workflow knows the event user_registerd; did you mean user_registered?" in published.err
    assert "no node is running" in published.err
    started_run = call("start", "user_registration", "--input", DATA).lines[0]["run_id"]
    assert [line["run_id"] for line in call("runs", "--status", "open").lines] == [started_run]
    assert call("start", "user_registratio").status == 2
    assert call("history", "ffff").status == 2
    assert call("retire", "user_registration").status == 0
    assert [line["state"] for line in call("definitions").lines] == ["retired"]
    assert call("verify").lines[0]["fault"] is None


def test_verify_names_the_first_bad_event(tmp_path: Path, database_url: str) -> None:
    perdure(tmp_path, "register", str(EXAMPLE), "--database", database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("alter table perdure.events disable trigger all")
        connection.execute("update perdure.events set type = 'Forged' where position = 1")
    answer = perdure(tmp_path, "verify", "--database", database_url, "--json")
    assert answer.status == 1
    assert answer.lines[0]["fault"]["position"] == 1
    assert "the log was changed at position 1" in answer.err


def test_migrate_makes_the_schema_and_may_be_repeated(tmp_path: Path, postgres_url: str) -> None:
    name = f"migrated_{uuid4().hex}"
    database = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SQL("create database {}").format(Identifier(name)))
    assert perdure(tmp_path, "runs", "--database", database).status == 4
    for _ in range(2):
        assert perdure(tmp_path, "migrate", "--json", "--database", database).status == 0
    assert perdure(tmp_path, "runs", "--json", "--database", database).status == 0


def test_schemas_are_printed_as_json(tmp_path: Path) -> None:
    definition = json.loads(perdure(tmp_path, "schema").out)
    assert definition["$schema"].startswith("http://json-schema.org/draft-07")
    (events,) = perdure(tmp_path, "schema", "--events", "--json").lines
    assert {"RunStarted", "TaskInterrupted", "EventPublished", "DefinitionRegistered"} <= events["$defs"].keys()
    failed = events["$defs"]["TaskFailed"]["properties"]
    assert "retry_at" in failed["data"]["properties"]
    assert "error" not in failed["data"]["properties"]
    assert "error" in failed["payload"]["anyOf"][0]["properties"]


@pytest.mark.parametrize("name", ["", "--"])
def test_an_empty_name_is_no_run_even_where_there_is_only_one(tmp_path: Path, database_url: str, name: str) -> None:
    perdure(tmp_path, "register", written(tmp_path, WAITING), "--database", database_url)
    assert perdure(tmp_path, "start", "waiting", "--database", database_url).status == 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        count = "select (select count(*) from perdure.events), (select count(*) from perdure.inbox)"
        before = connection.execute(count).fetchone()
        for verb in ("cancel", "pause", "resume", "erase", "show"):
            answer = perdure(tmp_path, verb, "--database", database_url, "--", name)
            assert (answer.status, answer.out) == (2, "")
            assert answer.err == f"perdure: {name!r} names no run: give its id, the beginning of it, or last\n"
        assert connection.execute(count).fetchone() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_stops_cleanly_and_gives_its_leases_back(tmp_path: Path, database_url: str, number: int) -> None:
    with started(tmp_path, "up", "--json", "--database", database_url) as node:
        assert node.stdout is not None
        ready = json.loads(node.stdout.readline())
        assert ready["pid"] == node.pid
        published = perdure(tmp_path, "publish", "stray", "--json", "--database", database_url)
        assert published.lines[0]["matches"] == []
        node.send_signal(number)
        _, errors = node.communicate(timeout=20)
    assert node.returncode == 0, errors
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from perdure.shards where node is not null").fetchone() == (0,)


def test_ctrl_c_while_waiting_is_status_130(tmp_path: Path, database_url: str) -> None:
    arguments = ("run", written(tmp_path, WAITING), "--event", "begun", "--database", database_url)
    with started(tmp_path, *arguments) as process:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while connection.execute("select from perdure.events where type = 'RunStarted'").fetchone() is None:
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m perdure schema --events | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "{"
    assert done.stderr == ""


def test_help_does_not_load_a_database_driver(tmp_path: Path) -> None:
    code = "import sys; from perdure.cli import status_of; status_of(['--help']); sys.exit('sqlalchemy' in sys.modules)"
    done = subprocess.run([PERDURE[0], "-c", code], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 0


def test_heads_are_signed_published_and_checked(tmp_path: Path, database_url: str) -> None:
    def call(*arguments: str, **settings: str) -> Answer:
        return perdure(tmp_path, *arguments, "--json", PERDURE_DATABASE_URL=database_url, **settings)

    assert "PERDURE_HEADS_KEY=FILE names it" in call("sign").err
    made = call("keygen", "key").lines[0]
    assert made == {"private": "key", "public": "key.pub"}
    again = call("keygen", "key")
    assert again.status == 2 and "key is there already: a key is never overwritten" in again.err
    signing = {"PERDURE_HEADS_KEY": "key", "PERDURE_HEADS_FILE": "heads", "PERDURE_HEADS_COMMAND": "cat >> sent"}
    nothing = call("sign", **signing)
    assert nothing.status == 1 and "the log has no settled event yet" in nothing.err
    call("publish", "first")
    head = call("sign", **signing).lines[0]
    assert (head["size"], head["new"]) == (1, True)
    assert (tmp_path / "heads").read_text() == (tmp_path / "sent").read_text() == head["note"]
    assert call("sign", **signing).lines[0] == head | {"new": False}
    assert head["verifier_key"].startswith(f"{head['origin']}+")
    call("publish", "second")

    checked = call("verify", "--heads", "heads", "--public-key", "key.pub")
    assert (checked.status, checked.lines[0]["heads"]) == (0, 2)
    call("keygen", "other")
    unknown = call("verify", "--heads", "heads", "--public-key", "other.pub")
    assert unknown.status == 1 and "is not signed with the key given" in unknown.err
    for arguments, sentence in {
        ("--heads", "missing"): "the heads in missing cannot be read: No such file",
        ("--heads", "key"): "key holds no signed head",
        ("--public-key", "heads"): "heads holds no public key that can be read",
        ("0" * 32, "--heads", "heads"): "a single run has no heads",
    }.items():
        refused = call("verify", *arguments)
        assert refused.status == 2 and sentence in refused.err, refused.err

    whole = (tmp_path / "heads").read_bytes()
    (tmp_path / "damaged").write_bytes(whole + b"garbage\n")
    damaged = call("verify", "--heads", "damaged")
    assert (damaged.status, "damaged are no head, and are passed over" in damaged.err) == (0, True)
    (tmp_path / "binary").write_bytes(b"\xff" + whole)
    assert call("verify", "--heads", "binary").status == 2
    assert "published to gone are not there" in call("verify", PERDURE_HEADS_FILE="gone").err
    assert not call("verify", "--heads", "heads").err

    with psycopg.connect(database_url) as connection:
        for table in ("events", "heads"):
            connection.execute(SQL("alter table perdure.{} disable trigger all").format(Identifier(table)))
        connection.execute("delete from perdure.heads")
        connection.execute("delete from perdure.events")
    assert call("verify").status == 0
    cut = call("verify", PERDURE_HEADS_FILE="heads")
    assert cut.status == 1
    assert re.search(
        r"the log was changed: the head of 1 events signed at .* UTC \(heads\) has 1 events more than the log", cut.err
    )
    call("publish", "third")
    forked = call("sign", **signing)
    assert forked.status == 1
    assert "the log does not begin with the 1 events of the head signed at" in forked.err


def test_a_node_signs_by_itself_and_a_key_that_is_missing_stops_it(tmp_path: Path, database_url: str) -> None:
    signing = {"PERDURE_HEADS_KEY": "key", "PERDURE_HEADS_FILE": "heads", "PERDURE_HEADS_EVERY": "0.1"}
    refused = perdure(tmp_path, "up", "--database", database_url, **signing)
    assert refused.status == 2
    assert "the key key cannot be read: No such file" in refused.err
    perdure(tmp_path, "keygen", "key")
    with started(tmp_path, "up", "--json", "--database", database_url, **signing) as node:
        assert node.stdout is not None
        node.stdout.readline()
        perdure(tmp_path, "publish", "stray", "--json", "--database", database_url)
        while not (tmp_path / "heads").exists() or "position 2" not in (tmp_path / "heads").read_text():
            assert node.poll() is None
        node.send_signal(signal.SIGINT)
        _, errors = node.communicate(timeout=20)
    assert node.returncode == 0, errors
    checked = perdure(
        tmp_path, "verify", "--json", "--heads", "heads", "--public-key", "key.pub", "--database", database_url
    )
    assert checked.status == 0 and checked.lines[0]["heads"] >= 2


def test_one_run_can_be_verified(tmp_path: Path, database_url: str) -> None:
    database = ("--database", database_url, "--json")
    perdure(tmp_path, "register", str(EXAMPLE), *database)
    run = perdure(tmp_path, "start", "user_registration", "--input", DATA, *database).lines[0]["run_id"]
    checked = perdure(tmp_path, "verify", run[:8], *database).lines[0]
    assert (checked["streams"], checked["fault"]) == (1, None)
    assert perdure(tmp_path, "verify", str(uuid4()), *database).status == 2
    with psycopg.connect(database_url) as connection:
        connection.execute("alter table perdure.events disable trigger all")
        connection.execute("update perdure.events set hash = sha256(hash) where stream = %s and version = 1", (run,))
    answer = perdure(tmp_path, "verify", run, *database)
    assert answer.status == 1
    assert f"stream {run}, version 1): its hash does not match" in answer.err


def test_whoever_has_seen_enough_ends_it_with_the_status_of_a_broken_pipe(tmp_path: Path) -> None:
    command = f"(sleep 0.3; {sys.executable} -m perdure schema --events) | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("since", ["p²", "0001-01-01T00:00:00+12:00", "9999-12-31T23:59:59-12:00", "p" + "9" * 19])
def test_a_time_that_is_none_is_a_sentence(tmp_path: Path, since: str) -> None:
    done = perdure(tmp_path, "export", "--all", "--since", since)
    assert done.status == 2
    assert "--since takes a time such as" in done.err and len(done.err.splitlines()) <= 2
