"""A message made from a task's inputs."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, NamedTuple

from perdure.tasks.addresses import one_line


class Envelope(NamedTuple):
    """Who writes to whom. ``bcc`` is told to the server alone."""

    sender: Address
    to: Sequence[Address]
    cc: Sequence[Address]
    bcc: Sequence[Address]
    reply_to: Sequence[Address]

    @property
    def recipients(self) -> list[str]:
        """Everyone who gets it, each once."""
        return list(dict.fromkeys(address.addr_spec for address in (*self.to, *self.cc, *self.bcc)))


def compose(
    envelope: Envelope, *, message_id: str, sent_at: datetime, subject: str, body: str, html: str | None
) -> EmailMessage:
    """The message, with ``html`` as the alternative to ``body``. Raises InputsInvalid for a subject of two lines."""
    message = EmailMessage(SMTP)
    message["From"] = envelope.sender
    message["To"] = envelope.to
    if envelope.cc:
        message["Cc"] = envelope.cc
    if envelope.bcc:
        # For the outbox; aiosmtplib takes it off what it sends.
        message["Bcc"] = envelope.bcc
    if envelope.reply_to:
        message["Reply-To"] = envelope.reply_to
    message["Subject"] = one_line("subject", subject)
    message["Date"] = sent_at
    message["Message-ID"] = message_id
    # RFC 3834: no out-of-office answers to a workflow.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(body)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def message_id(idempotency_key: str, domain: str) -> str:
    """The same for every attempt of a task, so that whoever gets the message twice can tell."""
    return f"<{hashlib.sha256(idempotency_key.encode()).hexdigest()[:40]}@{domain}>"


def in_words(name: str) -> str:
    """``send_welcome_email`` as "Send welcome email"."""
    words = " ".join(re.findall(r"[^\s_\[\]-]+", name))
    return words[:1].upper() + words[1:]


def as_lines(inputs: Mapping[str, Any]) -> str:
    """One line an input, strings as they are, anything else as JSON."""
    return "".join(
        f"{in_words(name)}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n"
        for name, value in inputs.items()
    )
