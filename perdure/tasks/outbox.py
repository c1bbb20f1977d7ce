"""Messages as files, where no SMTP server is configured."""

import os
import tempfile
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from urllib.parse import quote

from perdure_engine.task import Task


def file_name(task: Task) -> str:
    """The same for every attempt of a task, so that a repeat overwrites."""
    return f"{task.run_id}-{quote(task.task_id, safe='[]')}.eml"


def write_message(folder: Path, name: str, message: EmailMessage) -> Path:
    """Write ``message`` whole or not at all, readable by its owner alone, and return the absolute path."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp: a name no other attempt has, and mode 0600.
    handle, draft = tempfile.mkstemp(dir=folder, prefix=".draft-", suffix=".eml")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_as_bytes(message))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, folder / name)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return folder / name


def _as_bytes(message: EmailMessage) -> bytes:
    addresses = " ".join(str(message[name]) for name in ("From", "To", "Cc", "Bcc", "Reply-To") if message[name])
    return message.as_bytes(policy=SMTP if addresses.isascii() else SMTPUTF8)
