"""Events as the check of the log reads them: rows of bytes, of which no objects are made."""

from typing import Final

COLUMNS: Final = """position, timestamptz_send(recorded_at), uuid_send(stream), version, schema_version, uuid_send(id),
    convert_to(type, 'UTF8'), data, metadata, payload, payload_salt, payload_digest, hash"""
POSITION, RECORDED_AT, STREAM, VERSION, SCHEMA, ID, TYPE, DATA, METADATA, PAYLOAD, SALT, DIGEST, HASH = range(13)
