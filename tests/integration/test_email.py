"""The `email` task: a message received by a real SMTP server, or found in the outbox."""

import email
import email.policy
import os
import socket
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from pydantic import SecretStr, ValidationError

from perdure.tasks.email import email_task
from perdure.tasks.settings import SmtpSettings
from perdure.tasks.smtp import DeliveryFailed, MessageRefused
from perdure_engine.calling import call
from perdure_engine.errors import InputsInvalid, NoRetry
from perdure_engine.handlers import task_type
from perdure_engine.task import Task

RUN = uuid.UUID("019a0000-0000-7000-8000-000000000001")
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class Mailbox:
    """Keeps what arrives; answers as it is told to."""

    def __init__(self) -> None:
        self.received: list[tuple[str, list[str], EmailMessage]] = []
        self.answers: dict[str, str] = {}
        """A recipient, or `DATA`, to what the server says."""

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        assert envelope.mail_from is not None
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.received.append((envelope.mail_from, envelope.rcpt_tos, message))
        return self.answers.get("DATA", "250 OK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def settings(mailbox: Mailbox) -> Iterator[SmtpSettings]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield SmtpSettings(host="127.0.0.1", port=controller.port, sender="Perdure <perdure@example.org>")
    controller.stop()


@pytest.fixture
def outbox(tmp_path: Path) -> SmtpSettings:
    return SmtpSettings(outbox=tmp_path / "out" / "box")


async def send(settings: SmtpSettings, inputs: dict[str, Any], task_id: str = "send_welcome_email") -> Any:
    kind = task_type("email", email_task(settings, now=lambda: NOW))
    return await call(kind, Task(RUN, "user_onboarding", task_id, 1, inputs, 7))


def text(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


async def test_a_real_server_receives_the_message(settings: SmtpSettings, mailbox: Mailbox) -> None:
    output = await send(settings, {"email": "ada@example.org"})
    ((sender, recipients, message),) = mailbox.received
    assert (sender, recipients) == ("perdure@example.org", ["ada@example.org"])
    assert message["From"] == "Perdure <perdure@example.org>"
    assert message["To"] == "ada@example.org"
    assert message["Subject"] == "Send welcome email"
    assert message["Date"].datetime == NOW
    assert output == {"delivered": "smtp", "message_id": message["Message-ID"], "refused": {}}


async def test_everything_given_arrives_as_given(settings: SmtpSettings, mailbox: Mailbox) -> None:
    await send(
        settings,
        {
            "to": ["Ada Lovelace <ada@example.org>", "bob@example.org"],
            "cc": "eve@example.org, joe@example.org",
            "bcc": "secret@example.org",
            "reply_to": "desk@example.org",
            "sender": '"Desk, front" <front@example.net>',
            "subject": "Grüße, Ada ✓",
            "body": "Hällo\n.\nthere",
            "html": "<p>Hällo</p>",
        },
    )
    ((sender, recipients, message),) = mailbox.received
    assert sender == "front@example.net"
    assert [each.split("@")[0] for each in recipients] == ["ada", "bob", "eve", "joe", "secret"]
    assert message["To"] == "Ada Lovelace <ada@example.org>, bob@example.org"
    assert message["Cc"] == "eve@example.org, joe@example.org"
    assert message["Reply-To"] == "desk@example.org"
    assert message["Subject"] == "Grüße, Ada ✓"
    assert "secret" not in message.as_string()
    assert text(message) == "Hällo\n.\nthere\n"
    assert text(message, "html") == "<p>Hällo</p>\n"


async def test_what_is_left_of_the_inputs_becomes_the_body(settings: SmtpSettings, mailbox: Mailbox) -> None:
    await send(settings, {"to": "ada@example.org", "user_name": "Ada", "task": 5, "self": None, "tags": ["ä", 1]})
    assert text(mailbox.received[0][2]) == 'User name: Ada\nTask: 5\nSelf: null\nTags: ["ä", 1]\n'


async def test_a_repeat_carries_the_same_message_id_and_another_task_does_not(
    settings: SmtpSettings, mailbox: Mailbox
) -> None:
    for task_id in ("welcome", "welcome", "welcome[1]"):
        await send(settings, {"to": "ada@example.org"}, task_id)
    first, second, other = [message["Message-ID"] for _, _, message in mailbox.received]
    assert first == second != other
    assert first.endswith("@example.org>")


async def test_a_refused_recipient_is_told_and_the_others_get_it(settings: SmtpSettings, mailbox: Mailbox) -> None:
    mailbox.answers["bob@example.org"] = "550 no such user"
    output = await send(settings, {"to": ["ada@example.org", "bob@example.org"]})
    assert output["refused"] == {"bob@example.org": "550 no such user"}
    assert mailbox.received[0][1] == ["ada@example.org"]


@pytest.mark.parametrize(
    ("where", "answer", "final"),
    [
        ("ada@example.org", "550 no such user", True),
        ("ada@example.org", "451 try later", False),
        ("DATA", "554 spam", True),
        ("DATA", "452 disk full", False),
    ],
)
async def test_a_5xx_is_final_and_a_4xx_is_tried_again(
    settings: SmtpSettings, mailbox: Mailbox, where: str, answer: str, final: bool
) -> None:
    mailbox.answers[where] = answer
    with pytest.raises(MessageRefused if final else DeliveryFailed, match=answer) as failed:
        await send(settings, {"to": "ada@example.org"})
    assert isinstance(failed.value, NoRetry) is final


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    with pytest.raises(DeliveryFailed, match=r"the SMTP server 127\.0\.0\.1 did not take the message"):
        await send(SmtpSettings(host="127.0.0.1", port=free_port(), timeout=5), {"to": "ada@example.org"})


@pytest.mark.parametrize(("start_tls", "told"), [(None, []), (False, ["s3cret"])])
async def test_a_password_is_never_sent_without_tls_unless_told(
    mailbox: Mailbox, start_tls: bool | None, told: list[str]
) -> None:
    heard: list[str] = []

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        heard.append(data.password.decode())
        return AuthResult(success=True)

    controller = Controller(
        mailbox, hostname="127.0.0.1", port=free_port(), auth_require_tls=False, authenticator=authenticate
    )
    controller.start()
    settings = SmtpSettings(
        host="127.0.0.1", port=controller.port, username="u", password=SecretStr("s3cret"), start_tls=start_tls
    )
    try:
        if told:
            await send(settings, {"to": "ada@example.org"})
        else:
            with pytest.raises(DeliveryFailed, match="STARTTLS"):
                await send(settings, {"to": "ada@example.org"})
    finally:
        controller.stop()
    assert heard == told
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "/to: there is nobody to write to"),
        ({"to": []}, "/to: there is nobody to write to"),
        ({"to": "a@b.c", "email": "d@e.f"}, "/email: the recipient is given twice"),
        ({"to": 5}, "/to: Input should be a valid string"),
        ({"to": ""}, "/to: '' is not an e-mail address"),
        ({"email": "ada"}, "/email: 'ada' is not an e-mail address"),
        ({"to": "ada@"}, "is not an e-mail address"),
        ({"to": "@example.org"}, "is not an e-mail address"),
        ({"to": "ada@example.org; bob@example.org"}, "is not an e-mail address"),
        ({"to": "ada@example.org bob"}, "is not an e-mail address"),
        ({"to": "a..b@example.org"}, "is not an e-mail address"),
        ({"to": "ada@-example.org"}, "is not an e-mail address"),
        ({"to": ["ada@example.org", "b@c\r\nBcc: eve@example.org"]}, "/to: a line break"),
        ({"to": "Ada\nBcc: eve@example.org <ada@example.org>"}, "/to: a line break"),
        ({"to": "a@b.c", "cc": "b@c\n"}, "/cc: a line break"),
        ({"to": "a@b.c", "subject": "Hi\r\nBcc: eve@example.org"}, "/subject: a line break"),
        ({"to": "a@b.c", "sender": "a@b.c, d@e.f"}, "/sender: a message has one sender"),
    ],
)
async def test_what_no_message_can_hold_is_refused_and_nothing_is_sent(
    outbox: SmtpSettings, inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputsInvalid, match=sentence):
        await send(outbox, inputs)
    assert not outbox.outbox.exists()


async def test_without_a_server_the_message_is_a_file_in_the_outbox(outbox: SmtpSettings) -> None:
    output = await send(outbox, {"email": "Ada Löv <ada@exämple.org>", "html": "<b>x</b>", "n": 1})
    file = Path(output["file"])
    assert output["delivered"] == "outbox"
    assert file == outbox.outbox / f"{RUN}-send_welcome_email.eml"
    message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert (message["To"], message["Message-ID"]) == ("Ada Löv <ada@xn--exmple-cua.org>", output["message_id"])
    assert (text(message), text(message, "html")) == ("N: 1\n", "<b>x</b>\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_repeat_overwrites_its_file_and_leaves_no_draft(outbox: SmtpSettings) -> None:
    for body in ("first", "second"):
        output = await send(outbox, {"to": "ada@example.org", "body": body}, "welcome[1]")
    assert os.listdir(outbox.outbox) == [f"{RUN}-welcome[1].eml"]
    assert b"second" in Path(output["file"]).read_bytes()


async def test_the_outbox_keeps_the_hidden_recipients_too(outbox: SmtpSettings) -> None:
    output = await send(outbox, {"to": "ada@example.org", "bcc": "eve@example.org"})
    assert b"Bcc: eve@example.org\r\n" in Path(output["file"]).read_bytes()


async def test_a_file_that_cannot_be_written_leaves_nothing(
    outbox: SmtpSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        await send(outbox, {"to": "ada@example.org"})
    assert os.listdir(outbox.outbox) == []


async def test_it_says_once_that_no_server_is_configured(outbox: SmtpSettings) -> None:
    kind = task_type("email", email_task(outbox))
    with structlog.testing.capture_logs() as logs:
        for task_id in ("a", "b"):
            await call(kind, Task(RUN, "w", task_id, 1, {"to": "ada@example.org"}, 7))
    (warning,) = logs
    assert (warning["log_level"], warning["task"]) == ("warning", "a")
    assert "PERDURE_SMTP_HOST" in warning["event"]


@pytest.mark.parametrize(
    "given",
    [{"use_tls": True, "start_tls": True}, {"username": "a"}, {"password": "b"}, {"prot": 25}, {"timeout": 0}],
)
def test_settings_that_contradict_themselves_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SmtpSettings.model_validate(given)
