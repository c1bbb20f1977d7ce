"""The task types a node knows, by name."""

from collections.abc import Iterator
from typing import Any

from perdure_engine.errors import TaskTypeRefused, UnknownTaskType
from perdure_engine.handlers import TaskType


class TaskTypes:
    """A registry that may grow and shrink while a node runs. An attempt under way keeps the type it began with."""

    def __init__(self) -> None:
        self._types: dict[str, TaskType] = {}
        self._builtin: set[str] = set()

    def add(self, added: TaskType, *, replace: bool = False, builtin: bool = False) -> None:
        """Add a type; ``builtin`` marks one of Perdure's own. Raises TaskTypeRefused if the name is taken."""
        if added.name in self._types and not replace:
            state = "is built in" if added.name in self._builtin else "is there already"
            raise TaskTypeRefused(f"the task type {added.name} {state}; pass replace=True to replace it")
        self._types[added.name] = added
        (self._builtin.add if builtin else self._builtin.discard)(added.name)

    def remove(self, name: str) -> None:
        """Forget a type. Raises UnknownTaskType."""
        self.get(name)
        del self._types[name]
        self._builtin.discard(name)

    def get(self, name: str) -> TaskType:
        """The type of this name. Raises UnknownTaskType, with the nearest names."""
        try:
            return self._types[name]
        except KeyError:
            raise UnknownTaskType(name, self.names()) from None

    def find(self, name: str) -> TaskType | None:
        """The type of this name, if there is one."""
        return self._types.get(name)

    def is_builtin(self, name: str) -> bool:
        """Whether Perdure's own handler stands behind ``name``."""
        return name in self._builtin

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._types)

    def items(self) -> list[tuple[str, TaskType]]:
        """Names with their types, sorted by name."""
        return sorted(self._types.items())

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Names with the JSON Schema of their inputs, sorted by name."""
        return {name: each.input_schema for name, each in self.items()}

    def close(self) -> None:
        """Let go of the executors that were made for them; what is executed later makes others."""
        for each in self._types.values():
            if each.executor is not None:
                each.executor.close()

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._types)
