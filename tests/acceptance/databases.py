"""Databases made and dropped within a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import make_url


@contextmanager
def cloned(template: str) -> Iterator[str]:
    """The URL of a fresh database like the one behind the URL ``template``."""
    name = f"case_{uuid4().hex}"
    maintenance = _renamed(template, "postgres")
    copied = sql.Identifier(make_url(template).database or "")
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), copied))
    try:
        yield _renamed(template, name)
    finally:
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _renamed(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)
