"""One message to an SMTP server, and whether a refusal is final."""

from collections.abc import Sequence
from email.message import EmailMessage

import aiosmtplib

from perdure.tasks.settings import SmtpSettings
from perdure_engine.errors import NoRetry


class MessageRefused(NoRetry):
    """The server said no for good (5xx), or cannot do what the message needs."""


class DeliveryFailed(Exception):
    """The server was not reached, or said "not now" (4xx)."""


async def send(settings: SmtpSettings, message: EmailMessage, sender: str, recipients: Sequence[str]) -> dict[str, str]:
    """Hand ``message`` over, and return who of ``recipients`` the server refused, with its answer to each.

    Raises MessageRefused, or DeliveryFailed if another try may succeed. While one recipient was accepted the message
    is delivered: a repeat would reach them twice.
    """
    password = settings.password.get_secret_value() if settings.password else None
    # A password is never sent in the clear unless start_tls=False says so.
    start_tls = True if settings.start_tls is None and password and not settings.use_tls else settings.start_tls
    server = aiosmtplib.SMTP(
        hostname=settings.host,
        port=settings.port,
        username=settings.username,
        password=password,
        use_tls=settings.use_tls,
        start_tls=False if settings.use_tls else start_tls,
        timeout=settings.timeout,
    )
    try:
        async with server:
            refused, _ = await server.send_message(message, sender=sender, recipients=list(recipients))
    except (aiosmtplib.SMTPException, OSError) as error:
        sentence = f"the SMTP server {settings.host} did not take the message: {_reason(error)}"
        raise (MessageRefused if _is_final(error) else DeliveryFailed)(sentence) from error
    return {recipient: f"{answer.code} {answer.message}" for recipient, answer in refused.items()}


def _is_final(error: Exception) -> bool:
    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            return all(refusal.code >= 500 for refusal in error.recipients)
        case aiosmtplib.SMTPResponseException():
            return error.code >= 500
    return isinstance(error, aiosmtplib.SMTPNotSupported)


def _reason(error: Exception) -> str:
    match error:
        case aiosmtplib.SMTPRecipientsRefused():
            return ", ".join(f"{each.recipient}: {each.code} {each.message}" for each in error.recipients)
        case aiosmtplib.SMTPResponseException():
            return f"{error.code} {error.message}"
    return str(error) or type(error).__name__
