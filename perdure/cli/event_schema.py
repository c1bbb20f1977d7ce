"""The JSON Schema of every event type: what stands in an event's ``data`` and in its ``payload``."""

import inspect
from typing import Any, get_args, get_type_hints

import msgspec

from perdure_engine.facts import FACT_TYPES
from perdure_engine.run.codec import EVENT_TYPES
from perdure_eventstore.door import Json

_REFERENCE = "#/$defs/{name}"


def event_schema() -> dict[str, Any]:
    """A schema (draft 2020-12) of an event as ``perdure history --json`` prints it, as far as its type decides."""
    types = {**EVENT_TYPES, **FACT_TYPES}
    structs = [_data(kind) for kind in types.values()]
    _, components = msgspec.json.schema_components(structs, ref_template=_REFERENCE)
    events = {name: _event(name, kind, components.pop(name)) for name, kind in types.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Perdure event",
        "description": "An event of the log. `data` holds the engine's facts, `payload` what users gave or got; a "
        "payload that was erased is null.",
        "oneOf": [{"$ref": _REFERENCE.format(name=name)} for name in events],
        "$defs": {**events, **components},
    }


def _given(kind: type[Any]) -> list[str]:
    """The fields that are payload."""
    hints = get_type_hints(kind)
    return sorted(name for name, hint in hints.items() if hint is Json or Json in get_args(hint))


def _data(kind: type[Any]) -> type[msgspec.Struct]:
    """The event type without its payload."""
    given = _given(kind)
    fields = [field for field in msgspec.structs.fields(kind) if field.name not in given]
    return msgspec.defstruct(
        kind.__name__,
        [
            (field.name, field.type) if field.required else (field.name, field.type, field.default)
            for field in fields
        ],
        kw_only=True,
    )  # fmt: skip


def _event(name: str, kind: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = {"type": "null"}
    if given := _given(kind):
        members = {field: {"title": field, "description": "Any JSON value, as it was given."} for field in given}
        payload = {"anyOf": [{"type": "object", "properties": members}, payload]}
    del data["title"]
    return {
        "title": name,
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "type": "object",
        "properties": {"type": {"const": name}, "data": data, "payload": payload},
        "required": ["type", "data"],
    }
