"""JSON pointers (RFC 6901), and the order in which a document has its places."""

from collections.abc import Iterable

from perdure_engine.faults import Fault


def child(pointer: str, part: str | int) -> str:
    """The pointer to the key or index ``part`` of what ``pointer`` shows."""
    if isinstance(part, int):
        return f"{pointer}/{part}"
    if not part.isascii():
        # A lone surrogate in a key is refused, and the refusal must be printable.
        part = part.encode("utf-8", "backslashreplace").decode()
    return f"{pointer}/{part.replace('~', '~0').replace('/', '~1')}"


def in_document_order(faults: Iterable[Fault], document: object) -> tuple[Fault, ...]:
    """The faults sorted by where in the document they are; those of one place keep their order."""
    places = _Places()
    return tuple(sorted(faults, key=lambda fault: places.path(document, fault.pointer)))


class _Places:
    """Turns pointers to tuples of places, each object's keys numbered once."""

    def __init__(self) -> None:
        self._numbers: dict[int, dict[str, int]] = {}

    def path(self, document: object, pointer: str) -> tuple[int, ...]:
        here, path = document, []
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(here, dict) and name in here:
                path.append(self._number(here)[name])
                here = here[name]
            elif isinstance(here, list) and name.isdigit() and int(name) < len(here):
                path.append(int(name))
                here = here[int(name)]
            else:
                break
        return tuple(path)

    def _number(self, value: dict[str, object]) -> dict[str, int]:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = {key: number for number, key in enumerate(value)}
        return self._numbers[id(value)]
