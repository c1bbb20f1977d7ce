"""An HTTP response as plain JSON values."""

from typing import Any, Final

import httpx

from perdure_engine.errors import NoRetry
from perdure_eventstore.door import Json, PayloadRefused

# What a later task may need. Cookies and the rest stay out of a log that is kept for ever.
KEPT_HEADERS: Final = (
    "content-type", "content-language", "content-location", "date", "etag", "last-modified", "link", "location",
    "retry-after", "x-request-id",
)  # fmt: skip


class ResponseRefused(NoRetry):
    """The answer came, and the log cannot keep it."""


async def read_answer(response: httpx.Response, asked: str, max_body: int) -> dict[str, Any]:
    """``{"status", "headers", "body"}``: the body parsed if its content type is JSON, text otherwise, None if empty.

    ``asked`` names the request in errors, ``max_body`` is bytes. Raises ResponseRefused for a body that is larger,
    neither JSON nor text, or not the JSON it claims to be, but only where the status is one of success: the body of
    an error is as much as can be read of it.
    """
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > max_body:
            break
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    try:
        body = _body(response, bytes(content), max_body)
    except (ResponseRefused, PayloadRefused) as error:
        if response.is_success:
            raise ResponseRefused(
                f"{asked} answered {response.status_code}, but its body cannot be kept: {error}"
            ) from error
        body = bytes(content[:200]).decode(errors="replace").replace("\0", "�")
    return {"status": response.status_code, "headers": headers, "body": body}


def _body(response: httpx.Response, content: bytes, max_body: int) -> Any:
    if len(content) > max_body:
        raise ResponseRefused(
            f"it is larger than {max_body:,} bytes; fetch it in a task of your own and keep a reference"
        )
    if not content:
        return None
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return Json.parse(content).value
    try:
        return Json.of(content.decode(response.charset_encoding or "utf-8")).value
    except (UnicodeError, LookupError) as error:
        raise ResponseRefused(f"it is not text ({kind or 'of no content type'}: {error})") from error
