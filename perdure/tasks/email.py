"""The `email` task: one message, by SMTP, or as a file where no server is configured.

At least once: a node that dies between the server's yes and the record of it sends again, with the same Message-ID.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import anyio.to_thread

from perdure.tasks.addresses import Addresses, parse_addresses
from perdure.tasks.message import Envelope, as_lines, compose, in_words, message_id
from perdure.tasks.outbox import file_name, write_message
from perdure.tasks.settings import SmtpSettings
from perdure.tasks.smtp import send
from perdure_engine.errors import InputsInvalid
from perdure_engine.faults import Fault
from perdure_engine.task import Task


def _now() -> datetime:
    return datetime.now(UTC)


class EmailTask:
    """The handler. It takes ``to`` or ``email``; what it does not know becomes lines of the body."""

    def __init__(self, settings: SmtpSettings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._now = now
        self._warned = False

    # The slash and the underscore leave `self` and `task` free for the body.
    async def __call__(
        self,
        /,
        _task: Task,
        to: Addresses | None = None,
        email: Addresses | None = None,
        subject: str | None = None,
        body: str | None = None,
        html: str | None = None,
        cc: Addresses | None = None,
        bcc: Addresses | None = None,
        reply_to: Addresses | None = None,
        sender: str | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Send it, and return where it went.

        ``{"delivered": "smtp", "message_id", "refused": {address: answer}}`` or ``{"delivered": "outbox",
        "message_id", "file"}``. Raises InputsInvalid for what no message can hold, MessageRefused, DeliveryFailed.
        """
        envelope = _envelope(self._settings, to, email, cc, bcc, reply_to, sender)
        message = compose(
            envelope,
            message_id=message_id(_task.idempotency_key, envelope.sender.domain),
            sent_at=self._now(),
            subject=in_words(_task.task_id) if subject is None else subject,
            body=as_lines(others) if body is None else body,
            html=html,
        )
        return await (self._send(message, envelope) if self._settings.host else self._keep(message, _task))

    async def _send(self, message: EmailMessage, envelope: Envelope) -> dict[str, Any]:
        refused = await send(self._settings, message, envelope.sender.addr_spec, envelope.recipients)
        return {"delivered": "smtp", "message_id": str(message["Message-ID"]), "refused": refused}

    async def _keep(self, message: EmailMessage, task: Task) -> dict[str, Any]:
        file = await anyio.to_thread.run_sync(write_message, self._settings.outbox, file_name(task), message)
        if not self._warned:
            self._warned = True
            task.log.warning("no SMTP server is configured (PERDURE_SMTP_HOST): messages become files", file=str(file))
        return {"delivered": "outbox", "message_id": str(message["Message-ID"]), "file": str(file)}


def email_task(settings: SmtpSettings, now: Callable[[], datetime] = _now) -> EmailTask:
    """The handler, sending as ``settings`` say; ``now`` dates the messages."""
    return EmailTask(settings, now)


def _envelope(
    settings: SmtpSettings,
    to: Addresses | None,
    email: Addresses | None,
    cc: Addresses | None,
    bcc: Addresses | None,
    reply_to: Addresses | None,
    sender: str | None,
) -> Envelope:
    if to is not None and email is not None:
        raise InputsInvalid("email", [Fault("/email", "the recipient is given twice; give `to` or `email`")])
    field, given = ("to", to) if to is not None else ("email", email)
    recipients = parse_addresses(field, given)
    if not recipients:
        raise InputsInvalid("email", [Fault("/to", "there is nobody to write to; give an address in `to` or `email`")])
    senders = parse_addresses("sender", settings.sender if sender is None else sender)
    if len(senders) != 1:
        raise InputsInvalid("email", [Fault("/sender", "a message has one sender")])
    return Envelope(
        senders[0], recipients, parse_addresses("cc", cc), parse_addresses("bcc", bcc),
        parse_addresses("reply_to", reply_to),
    )  # fmt: skip
