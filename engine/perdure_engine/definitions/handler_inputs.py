"""A task's inputs against its type's JSON Schema, as far as they are known before a run (rule 23).

Only what is surely wrong is a fault: a handler converts what it gets (``"5"`` to 5, an integer to a float), and a
template's value is not known yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

from perdure_engine.definitions.fields import kind
from perdure_engine.definitions.pointers import child
from perdure_engine.definitions.report import Report

Schema = Mapping[str, Any]

_DEEPEST = 40
"""References of a schema may go round in circles."""


class HandlerInputs:
    """The input schema of one task type."""

    def __init__(self, type_: str, schema: Schema, report: Report) -> None:
        self.type = type_
        self.schema = schema
        self.report = report

    def check(self, inputs: Mapping[str, Any], pointer: str) -> None:
        """Report required inputs that are missing, inputs the handler does not take, and constants of a wrong type."""
        self._check(inputs, self.schema, pointer, _DEEPEST, f"task type `{self.type}`")

    def _check(self, value: Any, schema: Any, pointer: str, depth: int, who: str) -> None:
        if isinstance(value, dict) and value.keys() == {"$literal"}:
            value, pointer = value["$literal"], child(pointer, "$literal")
        elif isinstance(value, str) and "{{" in value:
            return
        schema = self._resolved(schema)
        if depth == 0 or not isinstance(schema, Mapping):
            return
        if not self._fits(value, schema, depth):
            self.report.fault(pointer, f"{who} takes {_expected(schema)} here, not {_shown(value)}")
            return
        if isinstance(value, dict):
            self._check_object(value, schema, pointer, depth, who)
        elif isinstance(value, list) and "items" in schema:
            for index, each in enumerate(value):
                self._check(each, schema["items"], child(pointer, index), depth - 1, who)

    def _check_object(self, value: dict[str, Any], schema: Schema, pointer: str, depth: int, who: str) -> None:
        properties = _mapping(schema.get("properties"))
        for name in schema.get("required", ()):
            if name not in value:
                self.report.fault(pointer, f"{who} needs `{name}`{_described(properties.get(name))}")
        for name, each in value.items():
            if name in properties:
                self._check(each, properties[name], child(pointer, name), depth - 1, who)
            elif schema.get("additionalProperties") is False and not schema.get("patternProperties"):
                takes = self.report.near(name, properties) or f"; it takes {_names(properties)}"
                self.report.fault(child(pointer, name), f"{who} takes no `{name}`{takes}")

    def _fits(self, value: Any, schema: Any, depth: int) -> bool:
        """Whether the value may be what the schema asks for; what is not known fits."""
        schema = self._resolved(schema)
        if depth == 0 or not isinstance(schema, Mapping) or (isinstance(value, str) and "{{" in value):
            return True
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches and not any(self._fits(value, each, depth - 1) for each in branches):
            return False
        if "enum" in schema and not _is_one_of(value, schema["enum"]):
            return False
        types = schema.get("type", ())
        types = [types] if isinstance(types, str) else list(types)
        return not types or any(_ACCEPTS.get(each, _anything)(value, schema) for each in types)

    def _resolved(self, schema: Any) -> Any:
        """The schema a local ``$ref`` points to."""
        for _ in range(_DEEPEST):
            reference = schema.get("$ref") if isinstance(schema, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return schema
            schema = self.schema
            for part in reference[2:].split("/"):
                schema = _mapping(schema).get(part.replace("~1", "/").replace("~0", "~"))
        return None


def _anything(value: Any, schema: Schema) -> bool:
    return True


def _number(value: Any, schema: Schema) -> bool:
    if not isinstance(value, str):
        return isinstance(value, int | float)
    try:
        float(value)
    except ValueError:
        # A date, a duration or a named constant may be declared as a number and be given as text.
        return "format" in schema
    return True


def _text(value: Any, schema: Schema) -> bool:
    # With a format ("date-time", "duration") handlers take numbers too.
    return isinstance(value, str) or ("format" in schema and isinstance(value, int | float))


def _boolean(value: Any, schema: Schema) -> bool:
    words = {"true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0"}
    return value in (0, 1) if not isinstance(value, str) else value.lower() in words


_ACCEPTS: Mapping[str, Callable[[Any, Schema], bool]] = {
    "string": _text,
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "null": lambda value, schema: value is None,
    "object": lambda value, schema: isinstance(value, dict),
    "array": lambda value, schema: isinstance(value, list),
}


_WORDS = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
}


def _is_one_of(value: Any, choices: Any) -> bool:
    return any(value == each or str(value) == str(each) for each in choices)


def _expected(schema: Schema) -> str:
    if "enum" in schema:
        return " or ".join(repr(each) for each in schema["enum"])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return " or ".join(dict.fromkeys(_expected(each) for each in branches if isinstance(each, Mapping)))
    if "$ref" in schema:
        return f"`{str(schema['$ref']).rpartition('/')[2]}`"
    types = schema.get("type", "something else")
    return " or ".join(_WORDS.get(each, str(each)) for each in ([types] if isinstance(types, str) else types))


def _shown(value: Any) -> str:
    return kind(value) if value is None or isinstance(value, dict | list) else f"{kind(value)} ({value!r:.60})"


def _described(schema: Any) -> str:
    description = _mapping(schema).get("description")
    return f": {description}" if isinstance(description, str) else ""


def _names(properties: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in properties) or "no inputs at all"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
