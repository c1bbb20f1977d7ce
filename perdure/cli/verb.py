"""What every verb of the command line has in common: its four options, and how its work is run."""

import inspect
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Annotated, Any, NamedTuple

import typer


class OutputClosed(Exception):
    """Whoever read standard output has seen enough."""


class Common(NamedTuple):
    """The options of every verb."""

    json: bool
    app: str | None
    database: str | None
    verbose: int


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "json": (Annotated[bool, typer.Option("--json", help="Print JSON Lines, and nothing else.")], False),
    "app": (
        Annotated[
            str | None,
            typer.Option(
                "--app", metavar="MODULE[:NAME]", help="Your application; or tool.perdure.app in pyproject.toml."
            ),
        ],
        None,
    ),
    "database": (
        Annotated[
            str | None,
            typer.Option("--database", metavar="NAME", help="embedded:FOLDER or postgresql://…"),
        ],
        None,
    ),
    "verbose": (
        Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for everything.")],
        0,
    ),
}


def verb(
    app: typer.Typer, name: str | None = None
) -> Callable[[Callable[..., Coroutine[Any, Any, int] | int]], Callable[..., int]]:
    """Add a function as a verb. It takes Common first and returns an exit status, or a coroutine of one."""

    def add(work: Callable[..., Coroutine[Any, Any, int] | int]) -> Callable[..., int]:
        @wraps(work)
        def command(**options: Any) -> int:
            common = Common(**{option: options.pop(option) for option in _OPTIONS})
            try:
                answer = work(common, **options)
                if isinstance(answer, int):
                    sys.stdout.flush()
                    return answer
                from perdure.cli.process import run

                return run(answer, common.verbose)
            except BrokenPipeError as error:
                # Typer's own way with it is to exit with 1, which here means that something was found wrong.
                raise OutputClosed from error

        own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for option, (annotation, default) in _OPTIONS.items()
        ]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + shared
        command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name)(command)
        return command

    return add
