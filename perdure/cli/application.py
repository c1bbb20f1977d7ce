"""Importing the user's application."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure import App
from perdure.cli.exits import WrongUse
from perdure.errors import PerdureError


def load_application(name: str, folder: Path) -> App:
    """The App in ``MODULE:NAME``, the module imported from ``folder``.

    Without a name it is the module's ``app``, or its only App. Raises WrongUse; DatabaseNotNamed and the like where
    making the App raises them.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise WrongUse(f"{name!r:.60} names no application: write MODULE or MODULE:NAME, such as main:app")
    module = _imported(module_name, folder)
    return _named(module, attribute) if attribute else _only(module)


def _imported(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = f"there is no such module in {folder}" if missing else f"{type(error).__name__}: {error}"
        raise WrongUse(f"the application {name} cannot be imported: {why}") from error


def _named(module: ModuleType, path: str) -> App:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        is_there = "there is none" if found is None else f"it is a {type(found).__name__}"
        raise WrongUse(f"{module.__name__}:{path} is not a perdure.App: {is_there}")
    return found


def _only(module: ModuleType) -> App:
    if isinstance(app := getattr(module, "app", None), App):
        return app
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if len({id(value) for value in apps.values()}) == 1:
        return next(iter(apps.values()))
    if apps:
        raise WrongUse(f"{module.__name__} holds several apps: say which, as in {module.__name__}:{min(apps)}")
    raise WrongUse(f"{module.__name__} holds no perdure.App: make one there, as in app = perdure.App(…)")
