"""What the built-in task types need to know. ``perdure.settings`` embeds ``TaskSettings``."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class SmtpSettings(BaseModel):
    """Where the `email` task sends. Without a host, messages become files in ``outbox``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    """None is the usual one: 465 for use_tls, 587 for start_tls, 25 for neither."""
    username: str | None = None
    password: SecretStr | None = None
    use_tls: bool = False
    """TLS from the first byte."""
    start_tls: bool | None = None
    """TLS by STARTTLS: True requires it, False never, None if the server offers it; with a username None requires."""
    sender: str = "perdure@localhost"
    """The From address where a task gives none."""
    timeout: float = Field(default=30.0, ge=0.01, le=86_400)
    """Seconds for each answer of the server."""
    outbox: Path = Path(".perdure/outbox")

    @model_validator(mode="after")
    def _consistent(self) -> "SmtpSettings":
        if self.use_tls and self.start_tls:
            raise ValueError("use_tls and start_tls are two ways to the same end: give one")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password come together: give both or neither")
        return self


class DatabaseTaskSettings(BaseModel):
    """Which database the `database` task writes to. None is Perdure's own, and then it is exactly once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr | None = None
    """A SQLAlchemy URL; `postgresql://` is read as psycopg's."""


class HttpSettings(BaseModel):
    """How the `http` task calls out."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    timeout: float = Field(default=30.0, ge=0.01, le=86_400)
    """Seconds for the whole exchange, where a task gives none."""
    max_body: int = Field(default=1024 * 1024, ge=0, le=2**31 - 1)
    """Bytes of a response's body, decompressed."""


class TaskSettings(BaseModel):
    """The settings of all built-in task types."""

    smtp: SmtpSettings = SmtpSettings()
    task_database: DatabaseTaskSettings = DatabaseTaskSettings()
    http: HttpSettings = HttpSettings()
