"""The CEL package, imported for the first expression that needs it: with it comes a terminal program, 90 ms."""

from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cel import Program


@cache
def _package() -> ModuleType:
    import cel

    return cel


def compile_cel(text: str) -> "Program":
    """``text`` as a program. Raises what the package raises, a panic of its Rust side included."""
    program: Program = _package().compile(text)
    return program


def evaluate_cel(text: str) -> Any:
    """The value of an expression without variables."""
    return _package().evaluate(text)
