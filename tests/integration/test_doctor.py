"""The doctor: every row of the working set that is not as the log says is found, named and rebuilt; no other is."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from applications import until
from breakages import BREAKAGES, broken_by, of_this
from command_line import perdure as command
from doctoring import app_of, doctor, fill, working_set
from logs import execute, new_stream, opened, rows, running, superuser
from sqlalchemy import make_url
from transfers import another_log, exported, import_lines, url_of

from perdure.encryption import EncryptionSettings
from perdure.roles import grant_node
from perdure_engine.imported import ImportedWork
from perdure_eventstore.errors import LogError
from perdure_eventstore.vault.master import new_master_key

pytestmark = pytest.mark.every_postgres


async def test_every_row_that_is_not_as_the_log_says_is_named_and_rebuilt(database_url: str) -> None:
    log = await fill(database_url)
    assert (await doctor(log.url)).faults == []
    healthy = working_set(log.url)
    async with app_of(log.url) as app:
        for name, (statement, table, where) in BREAKAGES.items():
            execute(log.url, broken_by(log, statement))
            broken = working_set(log.url)
            found = await app.doctor()
            assert [fault.table for fault in found.faults] == [table], (name, list(map(str, found.faults)))
            (fault,) = found.faults
            assert of_this(log, where).items() <= fault.where.items(), (name, str(fault))
            assert str(fault).startswith(f"{table}, "), name
            assert working_set(log.url) == broken, f"{name}: looking changes nothing"
            repaired = await app.doctor(repair=True)
            assert repaired.repaired and repaired.left == [], (name, list(map(str, repaired.left)))
            # The router may be set back to any place from which it passes over nothing.
            assert working_set(log.url) | {"router": []} == healthy | {"router": []}, name
            execute(log.url, "delete from perdure.inbox where kind <> 'event'")
            assert (await app.doctor()).faults == [], name


async def test_keys_that_are_encrypted_or_erased_are_no_fault(database_url: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    new_master_key(key)
    encryption: dict[str, Any] = {"encryption": EncryptionSettings(master_key=key)}
    log = await fill(database_url, **encryption)
    assert (await doctor(database_url, **encryption)).faults == []
    without = await doctor(database_url)
    assert without.faults == []
    assert without.remarks == ["the keys of 1 runs are encrypted, and were not compared"]
    execute(database_url, "update perdure.open_runs set key = 'b' where key = 'a'")
    assert [fault.table for fault in (await doctor(database_url, **encryption)).faults] == ["open_runs"]
    execute(database_url, "delete from perdure.open_runs where key = 'b'")
    # A wait still has it; once that is gone too, nobody without the key can tell.
    assert (await doctor(database_url, repair=True)).left == []
    assert rows(database_url, "select key from perdure.open_runs where run = %s", (log.runs["keyed"],)) == [("a",)]
    execute(
        database_url, f"delete from perdure.open_runs where run = '{log.runs['keyed']}'", "delete from perdure.waits"
    )
    left = (await doctor(database_url, repair=True)).left
    assert {fault.table for fault in left} == {"open_runs", "waits"}
    assert all("its key cannot be read here" in str(fault) for fault in left)
    assert (await doctor(database_url, repair=True, **encryption)).left == []
    assert (await doctor(database_url, **encryption)).faults == []


async def test_erased_and_archived_runs_are_passed_over(database_url: str, tmp_path: Path) -> None:
    log = await fill(database_url)
    async with app_of(database_url) as app:
        await app.erase(log.runs["ended"])
        assert (await app.doctor()).faults == []
        async with opened(database_url) as engine, running(engine) as appender:
            await appender.append(new_stream(600))
        async with app.node(views=True):
            await until(lambda: not rows(database_url, BEHIND))
        await app.archive(tmp_path, timedelta(0))
        assert rows(database_url, "select count(*) > 3 from perdure.archived") == [(True,)]
        assert (await app.doctor()).faults == []
        (archived,) = rows(database_url, "select stream from perdure.archived where stream = %s", (log.runs["ended"],))
        execute(
            database_url,
            f"insert into perdure.timers (run, timer, shard, due) values ('{archived[0]}', 'deadline', 1, now())",
        )
        (fault,) = (await app.doctor(repair=True)).faults
        assert "the run was archived" in str(fault)
        assert (await app.doctor()).faults == []


BEHIND = "select from perdure.projections where position < (select max(position) from perdure.events)"


async def test_runs_that_were_asked_for_in_sql_and_runs_that_were_imported_are_as_they_should(
    database_url: str,
) -> None:
    log = await fill(database_url)
    async with app_of(database_url) as app, app.database.begin() as connection:
        for event in ("asked", None):
            await app.start("waiting", connection=connection, event=event)
    async with app_of(database_url).node(views=False) as app:
        await until(lambda: len(rows(database_url, "select from perdure.open_runs")) >= 7)
        assert (await app.doctor()).faults == []
        text, _ = await exported(app.database)
    assert log.url
    async with another_log(database_url) as there:
        await import_lines(there, text, ImportedWork())
        assert (await doctor(url_of(there))).faults == []


async def test_a_role_that_may_not_rebuild_is_told_who_may(database_url: str) -> None:
    log = await fill(database_url)
    execute(database_url, "delete from perdure.waits")
    role = f"node_{uuid4().hex}"
    execute(database_url, f"create role {role} login")
    try:
        async with app_of(database_url) as app:
            await grant_node(app.database, "perdure", role)
        limited = make_url(database_url).update_query_dict({"options": f"-crole={role}"})
        async with app_of(limited.render_as_string(hide_password=False)) as app:
            assert (await app.doctor()).faults
            with pytest.raises(LogError, match="to rebuild the working set, connect as the owner of the schema"):
                await app.doctor(repair=True)
    finally:
        execute(database_url, f"drop owned by {role} cascade", f"drop role {role}")
    assert (await doctor(log.url, repair=True)).left == []


async def test_who_holds_up_appends_too_long_is_named(database_url: str) -> None:
    await fill(database_url)
    execute(database_url, "delete from perdure.waits")
    with superuser(database_url) as connection:
        connection.execute("begin")
        connection.execute("lock table perdure.events in row exclusive mode")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("perdure_engine.doctor.doctor._TRIES", 1)
            with pytest.raises(LogError, match="somebody has been writing to the log for longer"):
                await doctor(database_url, repair=True)
        connection.execute("rollback")
    assert (await doctor(database_url, repair=True)).left == []


def test_the_blocking_face_asks_the_same(database_url: str) -> None:
    execute(database_url, "delete from perdure.shards where shard = 7")
    with app_of(database_url).blocking() as client:
        assert [str(fault) for fault in client.doctor().faults] == [
            "shards, shard 7: there is no row, the log says a row (there are 64)"
        ]
        assert client.doctor(repair=True).left == []
        assert client.doctor().faults == []


def test_the_command_line_names_each_row_and_rebuilds_it(database_url: str, tmp_path: Path) -> None:
    assert (
        command(tmp_path, "doctor", PERDURE_DATABASE_URL=database_url).out == "the working set is what the log says\n"
    )
    run = UUID(int=7)
    execute(database_url, f"insert into perdure.timers (run, timer, shard, due) values ('{run}', 'deadline', 7, now())")
    found = command(tmp_path, "doctor", "--json", PERDURE_DATABASE_URL=database_url)
    assert found.status == 1
    assert "the working set is not what the log says: 1 row; `perdure doctor --repair` rebuilds it" in found.err
    (fault,) = found.lines
    assert (fault["table"], fault["row"]) == ("timers", {"run": str(run), "timer": "deadline"})
    assert (fault["log"], fault["why"], fault["rebuilt"]) == (None, "there is no such run", False)
    repaired = command(tmp_path, "doctor", "--repair", PERDURE_DATABASE_URL=database_url)
    assert repaired.status == 0
    assert f"timers, run {run}, timer deadline: there is shard 7, due " in repaired.out
    assert "the log says no row (there is no such run)" in repaired.out
    assert command(tmp_path, "doctor", "--json", PERDURE_DATABASE_URL=database_url).out == ""
