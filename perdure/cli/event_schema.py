"""The JSON Schema of every event type: what stands in an event's ``data`` and in its ``payload``."""

import inspect
from typing import Any

import msgspec

from perdure_engine.event_codec import payload_fields
from perdure_engine.facts import FACT_TYPES
from perdure_engine.run.codec import EVENT_TYPES

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
        "payload that was erased is null. An event of an older `schema_version` stands as it was written.",
        "oneOf": [{"$ref": _REFERENCE.format(name=name)} for name in events],
        "$defs": {**events, **components},
    }


def _data(kind: type[Any]) -> type[msgspec.Struct]:
    """The event type without its payload."""
    given = payload_fields(kind)
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
    if given := payload_fields(kind):
        members = {field: _member(field, is_json) for field, is_json in given.items()}
        payload = {"anyOf": [{"type": "object", "properties": members}, payload]}
    version = {"type": "integer", "minimum": 1, "maximum": kind.SCHEMA_VERSION}
    del data["title"]
    return {
        "title": name,
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "type": "object",
        "properties": {"type": {"const": name}, "schema_version": version, "data": data, "payload": payload},
        "required": ["type", "data"],
    }


def _member(field: str, is_json: bool) -> dict[str, Any]:
    if is_json:
        return {"title": field, "description": "Any JSON value, as it was given."}
    return {"title": field, "type": ["string", "null"]}
