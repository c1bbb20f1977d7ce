"""How what a handler returns becomes plain JSON values."""

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_jsonable_python

from perdure_engine.errors import OutputInvalid

_PLAIN: Final = frozenset({str, int, float, bool, NoneType, dict, list})

Serialise = Callable[[Any], Any]


def compile_output(name: str, hint: Any) -> Serialise:
    """The serialiser for a return hint: models, dataclasses, dates and the like by pydantic, by alias.

    Without a hint, or with one that is JSON already, plain values pass as they are, unseen (the log's door looks at
    what is inside them), and anything else is written as pydantic writes its type. A value that is not what its hint
    says is written as what it is. The serialiser raises OutputInvalid.
    """
    if _is_plain(hint):
        return lambda value: value if type(value) in _PLAIN else _guarded(name, to_jsonable_python, value)
    write = TypeAdapter(hint).serializer.to_python
    return lambda value: _guarded(name, write, value, mode="json", warnings=False, by_alias=True)


def _guarded(name: str, write: Callable[..., Any], value: Any, **options: Any) -> Any:
    try:
        return write(value, **options)
    except (PydanticSerializationError, ValueError) as error:  # ValueError: a value that holds itself
        raise OutputInvalid(name, str(error)) from error


def _is_plain(hint: Any) -> bool:
    if hint is Any or hint is None or (isinstance(hint, type) and hint in _PLAIN):
        return True
    return get_origin(hint) in (dict, list, Union, UnionType) and all(map(_is_plain, get_args(hint)))
