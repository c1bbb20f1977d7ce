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
    _, components = msgspec.json.schema_components(
        types.values(), schema_hook=lambda _: {}, ref_template=_REFERENCE
    )  # fmt: skip
    events = {name: _event(name, kind, components.pop(name)) for name, kind in types.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Perdure event",
        "description": "An event of the log. `data` holds the engine's facts, `payload` what users gave or got; a "
        "payload that was erased is null.",
        "oneOf": [{"$ref": _REFERENCE.format(name=name)} for name in events],
        "$defs": {**events, **components},
    }


def _event(name: str, kind: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """``fields``, the schema of the event as one object, divided into data and payload."""
    hints = get_type_hints(kind)
    given = {each for each, hint in hints.items() if hint is Json or Json in get_args(hint)}
    shapes = fields["properties"]
    data = {field: shape for field, shape in shapes.items() if field not in given}
    required = [field for field in fields.get("required", ()) if field not in given]
    members: dict[str, Any] = {"type": {"const": name}, "data": _object(data, required)}
    if given:
        members["payload"] = {"anyOf": [_object({each: _any(each) for each in sorted(given)}, []), {"type": "null"}]}
    else:
        members["payload"] = {"type": "null"}
    return {
        "title": name,
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "type": "object",
        "properties": members,
        "required": ["type", "data"],
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _any(field: str) -> dict[str, Any]:
    return {"title": field, "description": "Any JSON value, as it was given."}
