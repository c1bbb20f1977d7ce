"""A run's state as bytes and back: every field, JSON texts as they were written, the definition by its digest.

Bytes are read by the very code that wrote them, or not at all (``snapshots``): they follow from the structs and from
``evolve``, and whoever has other code folds the events instead.
"""

import zlib
from typing import Any, get_args, get_origin

import msgspec
from immutables import Map
from msgspec.structs import fields

from perdure_engine.definitions.definition import Definition
from perdure_engine.run.state import RunState
from perdure_eventstore.door import NULL, Json

_LEVEL = 1


class SnapshotUnreadable(ValueError):
    """Bytes that are no state of this run."""


def pack(state: RunState) -> bytes:
    """``state`` as bytes. It is frozen, so this may be done in a thread."""
    values = {name: getattr(state, name) for name in _NAMES}
    return zlib.compress(_encode(_Packed(**values | {"definition": state.definition.digest})), _LEVEL)


def unpack(text: bytes, definition: Definition) -> RunState:
    """The state that was packed. Raises SnapshotUnreadable, also where its definition is another."""
    try:
        packed = _decode(zlib.decompress(text))
        values = {name: getattr(packed, name) for name in _NAMES}
        values |= {name: Map(decode(values[name])) for name, decode in _MAPS.items()}
    except (zlib.error, msgspec.MsgspecError, TypeError, ValueError) as error:
        raise SnapshotUnreadable(f"{type(error).__name__}: {error}") from error
    if values["definition"] != definition.digest:
        raise SnapshotUnreadable("it is a state of another definition")
    return RunState(**values | {"definition": definition})


def _as_plain(value: Any) -> Any:
    if type(value) is Json:
        return value.text
    if type(value) is Map:
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no place in a run's state")


def _as_it_was(kind: Any, value: Any) -> Any:
    if kind is not Json:
        raise TypeError(f"a {kind} has no place in a run's state")
    return NULL if value == NULL.text else Json(value)


def _map_decoder(kind: Any) -> Any:
    plain: Any = dict
    return msgspec.msgpack.Decoder(plain[get_args(kind)], dec_hook=_as_it_was).decode


_FIELDS: dict[str, Any] = {field.name: field.type for field in fields(RunState)}
_NAMES = list(_FIELDS)
_MAPS = {name: _map_decoder(kind) for name, kind in _FIELDS.items() if get_origin(kind) is Map}
# RunState with its definition's digest for the definition, its maps to be decoded by themselves.
_PACKED = {name: msgspec.Raw if name in _MAPS else kind for name, kind in _FIELDS.items()} | {"definition": str}
_Packed: Any = msgspec.defstruct("_Packed", list(_PACKED.items()), array_like=True, frozen=True, gc=False)
_encode = msgspec.msgpack.Encoder(enc_hook=_as_plain, uuid_format="bytes").encode
_decode = msgspec.msgpack.Decoder(_Packed, dec_hook=_as_it_was).decode
