"""What an expression compiles to: a literal, a plain path, a path with a default, or CEL."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from perdure_engine.templates import boundary
from perdure_engine.templates.cel_errors import failure, is_panic, unknown_name
from perdure_engine.templates.errors import TemplateError
from perdure_engine.templates.paths import Path, Reference, kind
from perdure_engine.templates.rewrite import COLLECT, COLLECTED, EACH, KEEP, SIZE, Binding
from perdure_engine.templates.scope import Scope

if TYPE_CHECKING:
    from cel import Program

NOTHING: frozenset[Reference] = frozenset()


class Node(Protocol):
    """Something that has a value in a scope. Of its ``references``, the ``required`` ones may not be missing."""

    @property
    def references(self) -> frozenset[Reference]: ...

    @property
    def required(self) -> frozenset[Reference]: ...

    def resolve(self, scope: Scope) -> Any:
        """The value. Raises TemplateError."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is what it is; given out as it is, so nobody may change it."""

    value: Any
    references: frozenset[Reference] = NOTHING
    required: frozenset[Reference] = NOTHING

    def resolve(self, scope: Scope) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class PlainPath:
    """The value at a path, exactly."""

    path: Path
    pointer: str
    references: frozenset[Reference]
    required: frozenset[Reference]

    def resolve(self, scope: Scope) -> Any:
        return self.path.find(scope, self.pointer)


@dataclass(frozen=True, slots=True)
class Default:
    """The value at a path, or another where that is missing."""

    path: Path
    pointer: str
    otherwise: Node
    references: frozenset[Reference]
    required: frozenset[Reference]

    def resolve(self, scope: Scope) -> Any:
        if self.path.present(scope):
            return self.path.find(scope, self.pointer)
        return self.otherwise.resolve(scope)


@dataclass(frozen=True, slots=True)
class Cel:
    """A CEL program and the paths it uses. One that cannot be had fails the program only where it is needed."""

    expression: str
    pointer: str
    program: "Program"
    bindings: tuple[Binding, ...]
    helped: bool
    """Whether it calls the helpers of the rewriting."""
    references: frozenset[Reference]
    required: frozenset[Reference]

    def resolve(self, scope: Scope) -> Any:
        run = _Evaluation(self, scope)
        try:
            result = self.program.execute(run.variables)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise run.explain(error) from None
        if run.refusals:
            raise run.refusals[0]
        try:
            return boundary.release(result)
        except boundary.Refused as refused:
            raise TemplateError(self.pointer, self.expression, str(refused)) from None


@dataclass(slots=True)
class _Evaluation:
    """One run of a program: its variables, and what CEL cannot tell of what went wrong."""

    node: Cel
    scope: Scope
    variables: dict[str, Any] = field(default_factory=dict)
    lacking: dict[str, TemplateError] = field(default_factory=dict)
    """Variables that could not be had, and why."""
    refusals: list[TemplateError] = field(default_factory=list)
    collections: dict[int, list[Any]] = field(default_factory=dict)
    """What each `map` and `filter` has so far; a macro is never in another, so each goes through its list once."""

    def __post_init__(self) -> None:
        for binding in self.node.bindings:
            try:
                self.variables[binding.name] = self._bind(binding)
            except TemplateError as error:
                self.lacking[binding.name] = error
            except boundary.Refused as refused:
                self.lacking[binding.name] = self._error(f"`{binding.path.text}`: {refused}")
        if self.node.helped:
            self._help()

    def explain(self, error: BaseException) -> TemplateError:
        """The error to raise for one of CEL's."""
        if self.refusals:
            return self.refusals[0]
        lacking = self.lacking.get(unknown_name(error) or "")
        return lacking or self._error(failure(error))

    def _help(self) -> None:
        self.variables[SIZE] = self._guarded(boundary.size)
        self.variables[EACH] = self._guarded(boundary.each)
        self.variables[COLLECT] = self._collect
        self.variables[KEEP] = self._keep
        self.variables[COLLECTED] = self._collected

    def _bind(self, binding: Binding) -> Any:
        if binding.role == "present":
            return binding.path.present(self.scope)
        value = binding.path.find(self.scope, self.node.pointer)
        return boundary.admit(boundary.each(value) if binding.role == "each" else value)

    def _guarded(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``function`` for CEL to call. It never raises, for the package prints a raised error to standard error."""

        def guarded(value: Any) -> Any:
            try:
                return function(value)
            except boundary.Refused as refused:
                self.refusals.append(self._error(str(refused)))
                return None

        return guarded

    def _collect(self, number: int, value: Any) -> bool:
        self.collections.setdefault(number, []).append(value)
        return True

    def _keep(self, number: int, value: Any, kept: Any) -> bool:
        if kept is True:
            self._collect(number, value)
        elif kept is not False:
            self.refusals.append(self._error(f"the test of `filter` is a boolean, and this is {kind(kept)}"))
        return True

    def _collected(self, _: bool, number: int) -> list[Any]:
        return self.collections.get(number, [])

    def _error(self, reason: str) -> TemplateError:
        return TemplateError(self.node.pointer, self.node.expression, reason)
