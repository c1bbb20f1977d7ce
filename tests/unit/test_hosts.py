"""The servers a URL names, in libpq's form and in SQLAlchemy's, and what is said of a URL that names none."""

from typing import Any

import pytest
from sqlalchemy import create_engine

import perdure
from perdure_eventstore.hosts import WrongUrl, read_url


def connecting(url: str) -> dict[str, Any]:
    """What psycopg is told, but for the user and the database."""
    engine = create_engine(read_url(url))
    _, told = engine.dialect.create_connect_args(engine.url)
    return {name: value for name, value in told.items() if name not in ("user", "dbname", "password", "context")}


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://u@one:1,two:2/name", "one,two", "1,2"),
        ("postgres://u@one:1,two:2/name", "one,two", "1,2"),
        ("postgresql+psycopg://u@one:1,two:2/name", "one,two", "1,2"),
        ("postgresql://u@one,two/name", "one,two", "5432,5432"),
        # Libpq's way: the port is the second one's alone.
        ("postgresql://u@one,two:5433/name", "one,two", "5432,5433"),
        ("postgresql://one,two", "one,two", "5432,5432"),
        ("postgresql://u@[::1]:5,[fe80::2],three:7/name", "::1,fe80::2,three", "5,5432,7"),
        ("postgresql://u@%2Ftmp%2Fa:1,%2Ftmp%2Fb/name", "/tmp/a,/tmp/b", "1,5432"),
        ("postgresql://u:a%40b,c@one:1,two:2/name", "one,two", "1,2"),
        ("postgresql://u@/name?host=one:1&host=two:2", "one,two", "1,2"),
        ("postgresql://u@/name?host=[::1]:1&host=::2", "::1,::2", "1,5432"),
        ("postgresql://u@/name?host=/tmp/a&host=/tmp/b", "/tmp/a,/tmp/b", "5432,5432"),
        ("postgresql://u@/name?host=one,two&port=1,2", "one,two", "1,2"),
        ("postgresql://u@/name?host=one,two&port=7", "one,two", "7,7"),
        ("postgresql://u@/name?host=one,two", "one,two", "5432,5432"),
    ],
)
def test_several_hosts_are_understood_however_they_are_written(url: str, hosts: str, ports: str) -> None:
    assert connecting(url) == {"host": hosts, "port": ports, "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u@one:1/name", {"host": "one", "port": 1}),
        ("postgresql://u:a,b@one/name", {"host": "one"}),
        ("postgresql://u@one/name?port=1", {"host": "one", "port": "1"}),
        ("postgresql://u@/name?host=/tmp/a&port=1", {"host": "/tmp/a", "port": "1"}),
        ("postgresql://u@one/name?target_session_attrs=any", {"host": "one", "target_session_attrs": "any"}),
    ],
)
def test_a_single_host_is_left_as_it_is(url: str, told: dict[str, Any]) -> None:
    assert connecting(url) == told


def test_primary_may_be_asked_for_too() -> None:
    assert connecting("postgresql://one,two/name?target_session_attrs=primary")["target_session_attrs"] == "primary"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://u@one,/name", "names several hosts, and '' is none: write one:5432,two:5432"),
        ("postgresql://u@one:x,two/name", "'x' is no port: the database's URL has a number up to 65535"),
        ("postgresql://u@one,two:99999/name", "'99999' is no port"),
        ("postgresql://u:secret@one:x/name", "cannot be read; write postgresql://user@host:5432/name"),
        ("postgresql://u:secret@one,two/name?host=three", "names hosts twice"),
        ("postgresql://u@/name?host=one&host=two&port=1", "says host= several times, and port= too"),
        ("postgresql://u@/name?host=one,two&port=1,2,3", "names 2 hosts and 3 ports"),
        ("postgresql://one,two/name?target_session_attrs=any", "say read-write"),
        ("postgresql://one/name?target_session_attrs=prefer-standby", "say read-write"),
        ("mysql://u:secret@one/name", "is not a Postgres: give a URL that starts with postgresql://"),
    ],
)
def test_a_url_that_is_wrong_is_a_sentence_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(WrongUrl) as refused:
        read_url(url)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_app_refuses_it_at_once() -> None:
    with pytest.raises(WrongUrl, match="'x' is no port"):
        perdure.App("postgresql://u@one:x,two/name")
