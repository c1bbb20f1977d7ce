"""How a task's inputs become a handler's arguments.

Inputs are JSON, so they are validated as JSON: ``"2026-01-31"`` becomes a date, ``["a"]`` a tuple, an object a pydantic
model. What JSON types by itself is never turned into something else: ``"5"``, ``5.0`` and ``true`` are no int (an int
is a float, since JSON does not tell them apart). A pydantic model keeps its own configuration, and
``Annotated[int, Field(strict=False)]`` asks for pydantic's leniency. Each call gets fresh values, its own to change.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from perdure_engine.errors import InputsInvalid
from perdure_engine.faults import Fault
from perdure_engine.signature import Signature
from perdure_eventstore.door import Json

# Called with computed names, which a type checker cannot follow.
_typed_dict: Any = TypedDict

_KINDS: dict[type, str] = {
    str: "a string", int: "an integer", float: "a number", bool: "a boolean", dict: "an object", list: "a list",
    type(None): "null",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A signature compiled: ``bind`` validates, ``schema`` is the JSON Schema of the inputs."""

    task_type: str
    validate: Callable[[bytes], dict[str, Any]]
    schema: dict[str, Any]
    reserved: frozenset[str]
    """Parameters the engine fills. ``**kwargs`` would otherwise let an input of the same name reach them."""

    def bind(self, inputs: Json) -> dict[str, Any]:
        """The handler's keyword arguments. Raises InputsInvalid with every fault at once."""
        try:
            arguments = self.validate(inputs.text)
        except ValidationError as error:
            # Without its cause: pydantic's text shows the values, and those may be secret.
            raise InputsInvalid(self.task_type, list(self._faults(error, inputs.value))) from None
        if self.reserved and not self.reserved.isdisjoint(arguments):
            taken = sorted(self.reserved & arguments.keys())
            raise InputsInvalid(self.task_type, [Fault(f"/{name}", "this name is the engine's") for name in taken])
        return arguments

    def _faults(self, error: ValidationError, inputs: Mapping[str, Any]) -> Iterable[Fault]:
        names = list(self.schema.get("properties", ()))
        for detail in error.errors(include_url=False, include_context=False):
            path, found = _walk(detail["loc"], inputs)
            pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
            yield Fault(pointer, _sentence(detail, found, names))


def compile_inputs(name: str, signature: Signature) -> Binding:
    """Build the validator and the schema. Raises pydantic's PydanticUserError for a hint it cannot validate."""
    fields = {
        parameter.name: parameter.described if parameter.required else NotRequired[parameter.described]
        for parameter in signature.inputs
    }
    extra = signature.rest is not None
    config = ConfigDict(title=name, strict=True, extra="allow" if extra else "forbid")
    shape = _typed_dict(name, fields, extra_items=signature.rest) if extra else _typed_dict(name, fields)
    adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(with_config(config)(shape))
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **adapter.json_schema()}
    return Binding(name, adapter.validator.validate_json, schema, frozenset(signature.supplied))


def _walk(location: Iterable[str | int], value: Any) -> tuple[list[str | int], Any]:
    """The steps of ``location`` that lead through ``value``, and what is there.

    Pydantic puts the names of union members and validators between them, which no reader of the inputs knows.
    """
    path: list[str | int] = []
    for step in location:
        if isinstance(value, dict):
            path.append(step)
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path.append(step)
            value = value[step]
    return path, value


def _sentence(detail: ErrorDetails, found: Any, names: list[str]) -> str:
    match detail["type"]:
        case "missing":
            return "this input is missing"
        case "extra_forbidden" if len(detail["loc"]) == 1:
            near = get_close_matches(str(detail["loc"][0]), names, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
            return f"the handler takes no such input; {known}"
    kind = _KINDS.get(type(found))
    return f"{detail['msg']}, not {kind}" if detail["type"].endswith("_type") and kind else detail["msg"]
