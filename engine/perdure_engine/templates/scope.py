"""What the names in a template mean."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROOTS = ("input", "event", "events", "tasks", "run", "item", "index", "secrets")
"""The names that win over the fields of ``input``."""

_JSON = frozenset({dict, list, str, int, float, bool, type(None)})


class Lazy(Mapping[str, Any]):
    """An object whose fields may be callables without arguments: each is called once, when it is first asked for.

    It may stand only where the engine puts it (the roots, ``tasks``, ``tasks.T``), never inside plain JSON.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any | Callable[[], Any]]) -> None:
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Any:
        value = self._fields[name]
        if callable(value):
            value = self._fields[name] = value()
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Scope(Lazy):
    """The roots a template may name, each a JSON value, any mapping, or a callable that gives one when it is named.

    ``Scope(input={"id": 7}, tasks=lambda: …)``. ``tasks`` maps a task id to an object with ``output``, ``status`` and
    ``error``. ``secrets`` maps a name to what shall stand in the resolved value *in place of* the secret: a mark that
    is dispatch's to replace. No secret ever passes through here. A root that is left out is missing.

    Raises ValueError for a root that does not exist.
    """

    __slots__ = ()

    def __init__(self, **roots: Any | Callable[[], Any]) -> None:
        super().__init__(roots)
        for name in roots:
            if name not in ROOTS:
                raise ValueError(f"there is no root {name!r}; the roots are {', '.join(ROOTS)}")


def plain(value: Any) -> Any:
    """``value`` with every mapping of the engine's made a dict; JSON values come back as they are, unwalked."""
    if type(value) not in _JSON and isinstance(value, Mapping):
        return {name: plain(value[name]) for name in value}
    return value
