"""Settings, from the environment (PERDURE_…) or from code."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.ext.asyncio import AsyncEngine

from perdure.encryption import EncryptionSettings
from perdure.errors import PerdureError
from perdure.tasks.settings import DatabaseTaskSettings, HttpSettings, SmtpSettings, TaskSettings
from perdure_eventstore.head_keeper import HeadKeeper
from perdure_eventstore.outlets import HeadCommand, HeadFile, Outlet
from perdure_eventstore.signing import load_private

_PREFIX = "PERDURE_"


class SettingsRefused(PerdureError, ValueError):
    """A setting is unknown or has no meaning. The message names each."""


class HeadSettings(BaseModel):
    """The signed heads of the log: with which key, how often, and where they are published."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    key: Path | None = None
    """The private key, as `perdure keygen` makes it; without one nothing is signed."""
    every: float = Field(default=60.0, ge=0.1, le=86_400)
    """Seconds between two heads of a log that grows."""
    file: Path | None = None
    """Each head is appended to it."""
    command: str | None = None
    """A shell command that gets each head on its standard input, and perhaps one twice."""

    @model_validator(mode="after")
    def _consistent(self) -> "HeadSettings":
        if self.key is None and self.command is not None:
            raise ValueError("heads are published once they are signed: give PERDURE_HEADS_KEY too")
        return self

    def keeper(self, engine: AsyncEngine, schema: str) -> HeadKeeper:
        """Who keeps the tree of ``schema`` by these settings. Raises KeyRefused."""
        key = None if self.key is None else load_private(self.key)
        outlets: list[Outlet] = []
        if key and self.file is not None:
            outlets.append(HeadFile(self.file))
        if key and self.command is not None:
            outlets.append(HeadCommand(self.command))
        return HeadKeeper(engine, schema, key, outlets)


SCHEMA_NAME: Final = r"^[^\x00-\x1f\"'%\\]+$"
"""What may be a schema's name: it is put between double quotes."""


class Settings(BaseSettings):
    """How Perdure works here. A nested name joins its parts: PERDURE_SMTP_HOST is ``smtp.host``. Times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    database_url: str | None = None
    """``embedded:FOLDER`` or ``postgresql://…``."""
    schema_name: str = Field(default="perdure", max_length=63, pattern=SCHEMA_NAME)
    """Two applications in one database take two schemas."""
    concurrency: int = Field(default=100, ge=1, le=100_000)
    """Attempts a node executes at once."""
    lease: float = Field(default=10.0, ge=0.5, le=3_600)
    """How long the runs of a dead node wait for another."""
    stop: float = Field(default=10.0, ge=0.01, le=86_400)
    """How long a clean stop may take: handlers get three quarters of it, and recording what came of them the rest."""
    poll: float = Field(default=6.0, ge=0.01, le=3_600)
    """How long a lost hint can delay an event."""
    patience: float = Field(default=10.0, ge=0, le=86_400)
    """How long publish and start wait for a database that cannot be reached."""
    snapshot_every: int = Field(default=1_000, ge=0, le=2**31 - 1)
    """Events by which a long run grows from one snapshot of its state to the next; 0 takes none."""
    encryption: EncryptionSettings = EncryptionSettings()
    smtp: SmtpSettings = SmtpSettings()
    http: HttpSettings = HttpSettings()
    heads: HeadSettings = HeadSettings()
    task_database_url: SecretStr | None = None
    """Where the `database` task writes; None is Perdure's own database, and then it is exactly once."""

    def tasks(self, folder: Path | None) -> TaskSettings:
        """What the built-in task types need; ``folder`` is the embedded database's, and takes the outbox."""
        smtp = self.smtp
        if folder is not None and "outbox" not in smtp.model_fields_set:
            smtp = smtp.model_copy(update={"outbox": folder / "outbox"})
        database = DatabaseTaskSettings(url=self.task_database_url)
        return TaskSettings(smtp=smtp, http=self.http, task_database=database)

    @classmethod
    def load(cls) -> Self:
        """From the environment. Raises SettingsRefused for a variable that is misspelt or has no meaning."""
        known = sorted(_names(cls))
        strange = [name for name in os.environ if name.startswith(_PREFIX) and name not in known]
        if strange:
            near = get_close_matches(strange[0], known, n=1, cutoff=0.0)
            raise SettingsRefused(f"there is no setting {strange[0]}; the nearest is {near[0]}")
        try:
            return cls()
        except ValidationError as error:
            faults = [
                f"{_PREFIX}{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors()
            ]  # fmt: skip
            raise SettingsRefused("; ".join(faults)) from error


def _names(model: type[BaseModel], prefix: str = _PREFIX) -> set[str]:
    names = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= _names(kind, f"{prefix}{name.upper()}_")
        else:
            names.add(f"{prefix}{name.upper()}")
    return names
