"""What a handler's signature says: which parameters are inputs, which the engine fills, what comes back."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import Field
from pydantic_core import PydanticSerializationError, to_jsonable_python
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from perdure_engine.errors import TaskTypeRefused
from perdure_engine.task import Task


class Input(NamedTuple):
    """A parameter bound from the inputs."""

    name: str
    hint: Any
    default: Any
    """The parameter's own, or ``inspect.Parameter.empty``."""

    @property
    def required(self) -> bool:
        """Whether the inputs must hold it."""
        return self.default is inspect.Parameter.empty

    @property
    def described(self) -> Any:
        """The hint with its default for readers of the schema. The default itself stays Python's business."""
        if self.required:
            return self.hint
        try:
            default = to_jsonable_python(self.default)
        except PydanticSerializationError:
            return self.hint
        return Annotated[self.hint, Field(json_schema_extra={"default": default})]


@dataclass(frozen=True, slots=True)
class Signature:
    """A handler's parameters by who fills them."""

    inputs: tuple[Input, ...]
    rest: Any
    """The hint of ``**kwargs``, None without."""
    tasks: tuple[str, ...]
    connections: tuple[str, ...]
    sessions: tuple[str, ...]
    returns: Any
    """The return hint, Any without."""

    @property
    def supplied(self) -> Iterator[str]:
        """The parameters the engine fills."""
        yield from (*self.tasks, *self.connections, *self.sessions)


def read_signature(name: str, handler: Callable[..., Any], namespace: Mapping[str, Any] | None = None) -> Signature:
    """Sort the parameters of ``handler``; hints as text may name what ``namespace`` holds.

    Raises TaskTypeRefused for parameters that no name in the inputs can reach, and for hints that lead nowhere.
    """
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError) as error:
        raise TaskTypeRefused(f"the handler of {name} is no function one can look into: {error}") from error
    hints = _hints(name, handler, namespace)
    inputs: list[Input] = []
    supplied: dict[type, list[str]] = {Task: [], AsyncConnection: [], AsyncSession: []}
    rest: Any = None
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TaskTypeRefused(
                f"the handler of {name} has the positional parameter {str(parameter).split(':')[0]!r}; "
                "inputs come by name, so make it an ordinary or keyword-only one"
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = hint
        elif (special := _special(hint, supplied)) is not None:
            supplied[special].append(parameter.name)
        else:
            inputs.append(Input(parameter.name, hint, parameter.default))
    return Signature(
        tuple(inputs), rest, tuple(supplied[Task]), tuple(supplied[AsyncConnection]), tuple(supplied[AsyncSession]),
        hints.get("return", Any),
    )  # fmt: skip


def function_of(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function that carries the hints and says whether it is async: through partials and ``__call__``."""
    while isinstance(handler, partial):
        handler = handler.func
    if inspect.isroutine(handler):
        return handler
    return type(handler).__call__


def _hints(name: str, handler: Callable[..., Any], namespace: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return get_type_hints(function_of(handler), localns=dict(namespace or {}), include_extras=True)
    except NameError as error:
        raise TaskTypeRefused(
            f"the handler of {name} has a type hint that cannot be resolved: {error}; "
            "import the name at run time, at the top of the handler's module"
        ) from error


def _special(hint: Any, supplied: Mapping[type, list[str]]) -> type | None:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if not inspect.isclass(kind):
        return None
    return next((special for special in supplied if issubclass(kind, special)), None)
