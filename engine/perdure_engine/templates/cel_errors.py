"""The CEL package's errors as clauses that a definition's author understands, without values of the run."""

import re

_PARSE = re.compile(r"ERROR: <input>:\d+:\d+: (?:Syntax error: )?(.*)")
_OPERANDS = re.compile(r"Unsupported operation: ([^.]*)\.")
_FUNCTION = re.compile(r"Function '([^']*)' error")
_UNKNOWN = re.compile(r"Undefined variable or function: '([^']*)'")
_CONVERT = "; convert with double(…), int(…) or string(…)"


def is_panic(error: BaseException) -> bool:
    """Whether the package's native code gave up: it says so with a BaseException of its own."""
    return type(error).__name__ == "PanicException"


def unknown_name(error: BaseException) -> str | None:
    """The variable or function CEL did not find, if that is what is wrong."""
    found = _UNKNOWN.search(str(error))
    return found.group(1) if found else None


def syntax(error: BaseException) -> str:
    """Why an expression does not parse."""
    found = _PARSE.search(str(error))
    if is_panic(error) or found is None:
        return "CEL cannot read it"
    return found.group(1).partition(" expecting ")[0].replace("<EOF>", "the end")


def failure(error: BaseException) -> str:
    """Why an evaluation failed."""
    simple: dict[type[BaseException], str] = {
        ZeroDivisionError: "it divides by zero",
        OverflowError: "a number in it leaves its range: integers have 64 bits",
        IndexError: "an index is outside its list",
    }
    if type(error) in simple:
        return simple[type(error)]
    if isinstance(error, KeyError):
        return f"an object in it has no {error.args[0]!r}" if error.args else "an object in it lacks a field"
    if isinstance(error, TypeError):
        return _mixed(str(error))
    return _other(str(error))


def _mixed(message: str) -> str:
    found = _OPERANDS.search(message)
    if found:
        return f"CEL has no {found.group(1)}{_CONVERT}"
    return f"it mixes types that do not go together, an integer and a decimal number say{_CONVERT}"


def _other(message: str) -> str:
    function = _FUNCTION.search(message)
    if function:
        return f"`{function.group(1)}` cannot use what it is given"
    unknown = _UNKNOWN.search(message)
    if unknown:
        return f"`{unknown.group(1)}` is not for values of this type"
    return "CEL cannot evaluate it"
