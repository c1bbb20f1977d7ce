"""The servers that a URL names: one, or several of which one can be written to at a time.

Several are written as libpq does (``postgresql://user@one:5432,two:5433/name``) or as SQLAlchemy does
(``postgresql://user@/name?host=one:5432&host=two:5433``). Both become what psycopg takes.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVER: Final = "postgresql+psycopg"
_SEVERAL = re.compile(r"(?P<before>[\w+]+://(?:[^/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<after>[/?].*)?", re.DOTALL)
_HOST = re.compile(r"(?P<name>\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?")
_WRITABLE: Final = ("read-write", "primary")
_ANY: Final = "any"


class WrongUrl(ValueError):
    """A URL that names no Postgres that can be written to. The message says what would be right, and no password."""


class _Host(NamedTuple):
    name: str
    port: str


def read_url(text: str) -> URL:
    """``text`` as a URL that SQLAlchemy can connect by. Of several servers the one is wanted that can be written to.

    Raises WrongUrl.
    """
    if text.startswith("postgres://"):
        text = text.replace("postgres://", "postgresql://", 1)
    hosts: list[_Host] = []
    if several := _SEVERAL.fullmatch(text):
        hosts = [_host(each) for each in several["hosts"].split(",")]
        text = several["before"] + (several["after"] or "")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Without its cause: the text may hold a password.
        raise WrongUrl("the database's URL cannot be read; write postgresql://user@host:5432/name") from None
    if url.get_backend_name() != "postgresql":
        raise WrongUrl(f"{url.render_as_string()} is not a Postgres: give a URL that starts with postgresql://")
    if hosts and "host" in url.query:
        raise WrongUrl("the database's URL names hosts twice: before the database's name, and as host=")
    hosts = hosts or _in_query(url)
    url = _with_hosts(url, hosts) if len(hosts) > 1 else url
    return _writable(url.set(drivername=_DRIVER), several=len(hosts) > 1)


def _host(text: str) -> _Host:
    found = _HOST.fullmatch(text)
    name, port = (unquote(found["name"]), found["port"] or "") if found else ("", "")
    return _checked(name.removeprefix("[").removesuffix("]"), port, text)


def _checked(name: str, port: str, text: str) -> _Host:
    if not name:
        raise WrongUrl(f"the database's URL names several hosts, and {text!r} is none: write one:5432,two:5432")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise WrongUrl(f"{port!r} is no port: the database's URL has a number up to 65535 after each host's colon")
    return _Host(name, port)


def _in_query(url: URL) -> list[_Host]:
    """Those that are said as ``host=``; each once with its port, or all of them and all ports divided by commas."""
    given, ports = url.query.get("host", ()), url.query.get("port", ())
    if not given:
        return []
    if not isinstance(given, str):
        if ports:
            raise WrongUrl(
                "the database's URL says host= several times, and port= too: write host=one:5432&host=two:5432"
            )
        return [_pair(each) for each in given]
    names = given.split(",")
    numbers = ports.split(",") if isinstance(ports, str) else list(ports)
    if len(names) < 2:
        return []
    if len(numbers) not in (0, 1, len(names)):
        raise WrongUrl(f"the database's URL names {len(names)} hosts and {len(numbers)} ports")
    numbers = numbers * len(names) if len(numbers) == 1 else numbers or [""] * len(names)
    return [_checked(name, port, name) for name, port in zip(names, numbers, strict=True)]


def _pair(text: str) -> _Host:
    # A socket's folder has no colon, an IPv6 address has many, and stands in brackets if it has a port.
    return _host(text) if text.startswith("[") or text.count(":") < 2 else _checked(text, "", text)


def _with_hosts(url: URL, hosts: list[_Host]) -> URL:
    names, ports = ",".join(each.name for each in hosts), ",".join(each.port or "5432" for each in hosts)
    return url.difference_update_query(["host", "port"]).update_query_dict({"host": names, "port": ports})


def _writable(url: URL, *, several: bool) -> URL:
    wanted = url.query.get("target_session_attrs")
    if wanted is None:
        return url.update_query_dict({"target_session_attrs": _WRITABLE[0]}) if several else url
    if wanted in _WRITABLE or (wanted == _ANY and not several):
        return url
    raise WrongUrl(f"target_session_attrs={wanted} may find a server that cannot be written to: say {_WRITABLE[0]}")
