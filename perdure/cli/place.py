"""Which application, and which database: what the options, the environment and the folder say."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perdure import App
from perdure.cli import exits
from perdure.cli.application import load_application
from perdure.cli.output import remark
from perdure.cli.verb import Common
from perdure.database import EMBEDDED, check_name
from perdure.errors import DatabaseNotNamed
from perdure.settings import Settings

_VARIABLE = "PERDURE_DATABASE_URL"


def find_app(common: Common, *, named: bool = False, quiet: bool = False) -> App:
    """The application to work for. Raises Stop, SettingsRefused, DatabaseNotNamed.

    The database is ``--database``, or else the application's own, or PERDURE_DATABASE_URL, or the embedded one of the
    nearest folder that has one; not that last one if it has to be ``named``. ``quiet``: no database is needed.
    """
    fallback = f"{EMBEDDED}{_folder() / '.perdure'}"
    found = _application(common)
    if found is None:
        name = common.database or Settings.load().database_url
        if name is None and named:
            raise _not_named()
        app = _app(name or fallback)
    else:
        app = _load(found, common.database, None if named else fallback)
    if app.database_name == fallback and not quiet and common.database != fallback and not os.environ.get(_VARIABLE):
        remark(f"the database is {EMBEDDED}{_relative(_folder() / '.perdure')}")
    return app


class _Found(NamedTuple):
    """An application's name, and the folder it is imported from."""

    name: str
    folder: Path


def _application(common: Common) -> _Found | None:
    if common.app is not None:
        return _Found(common.app, Path.cwd())
    for folder in _upward():
        if (file := folder / "pyproject.toml").is_file():
            named = _configured(file)
            return _Found(named, folder) if named else None
    return None


def _configured(file: Path) -> str | None:
    try:
        tool: dict[str, Any] = tomllib.loads(file.read_text("utf-8")).get("tool", {})
    except ValueError as error:
        raise exits.WrongUse(f"{file} cannot be read: {error}") from error
    named = tool.get("perdure", {}).get("app")
    if named is not None and not isinstance(named, str):
        raise exits.WrongUse(f'{file}: [tool.perdure] app is text such as "main:app", not {named!r:.60}')
    return named


def _app(name: str) -> App:
    try:
        return App(check_name(name))
    except DatabaseNotNamed as error:
        raise _not_named(name) from error


def _load(found: _Found, database: str | None, fallback: str | None) -> App:
    """Import the application; an ``App()`` in it that names no database gets the one to be used."""
    before = os.environ.get(_VARIABLE)
    meant = database or before or fallback
    if meant is not None:
        os.environ[_VARIABLE] = meant
    try:
        app = load_application(found.name, found.folder)
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
    if database is not None:
        try:
            app.database_name = check_name(database)
        except DatabaseNotNamed as error:
            raise _not_named(database) from error
    return app


def _not_named(found: str = "") -> exits.WrongUse:
    was = f"{found.partition(':')[0]!r} names no database" if found else "no database is named"
    return exits.WrongUse(
        f"{was}: give --database embedded:.perdure or --database postgresql://…, or set {_VARIABLE} to either"
    )


def _folder() -> Path:
    """The nearest folder, from the current one up, that has a database or is a project."""
    for folder in _upward():
        if (folder / ".perdure").is_dir() or (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()


def _upward() -> Iterator[Path]:
    here = Path.cwd()
    yield from (here, *here.parents)


def _relative(path: Path) -> str:
    return os.path.relpath(path)
