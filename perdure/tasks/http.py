"""The `http` task: one request, its answer as the output.

Redirects are not followed: credentials and a body must not go where the definition did not say. At least once; every
attempt carries the same Idempotency-Key header, so a server that knows it acts once.
"""

import asyncio
import re
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Final, Literal

import httpx
from pydantic import Field

from perdure.tasks.response import read_answer
from perdure.tasks.settings import HttpSettings
from perdure_engine.errors import InputsInvalid, NoRetry
from perdure_engine.faults import Fault
from perdure_engine.task import Task
from perdure_eventstore.door import Json

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
Parameter = str | int | float | bool | None

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_NOW: Final = frozenset({408, 425, 429})


class HttpRefused(NoRetry):
    """The server gave an answer that another try will not change, or the request cannot be sent at all."""


class HttpFailed(Exception):
    """No answer, or one that says "not now" (408, 425, 429, 5xx)."""


class HttpTask:
    """The handler, with one client for all its calls, made on the first."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    async def __call__(
        self,
        /,
        _task: Task,
        url: str,
        method: Method | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, Parameter | list[Parameter]] | None = None,
        json: Any = None,
        body: str | None = None,
        timeout: Annotated[float, Field(gt=0)] | None = None,
        expected_status: int | list[int] | None = None,
    ) -> dict[str, Any]:
        """Send it and return ``{"status", "headers", "body"}``.

        ``method`` is GET, or POST where there is ``json`` or ``body``. ``timeout`` is seconds for the whole exchange.
        ``expected_status`` is one status or several; left out, any 2xx. Raises HttpRefused or HttpFailed.
        """
        has_json = "json" in _task.inputs
        if has_json and body is not None:
            raise _invalid("body", "a request has one body; give `json` or `body`")
        content = Json.of(json).text if has_json else body
        method = method or ("POST" if has_json or body is not None else "GET")
        try:
            request = self._shared().build_request(
                method,
                url,
                params=params,
                headers=_headers(headers or {}, _task.idempotency_key, has_json),
                content=content,
            )
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise _invalid("", f"this request cannot be made: {error}") from error
        if request.url.scheme not in ("http", "https") or not request.url.host or (request.url.port or 0) > 65535:
            raise _invalid("url", "a URL begins with http:// or https:// and a host, and its port is at most 65535")
        return await self._exchange(request, timeout or self._settings.timeout, expected_status)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _shared(self) -> httpx.AsyncClient:
        if self._client is None:
            # No timeouts of httpx's own: they count each read anew, so a server that drips would never meet them.
            # No cookies: one task's session must not become another's.
            jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
            self._client = httpx.AsyncClient(timeout=None, follow_redirects=False, cookies=jar)
        return self._client

    async def _exchange(
        self, request: httpx.Request, timeout: float, expected: int | list[int] | None
    ) -> dict[str, Any]:
        # The query may hold a secret.
        asked = f"{request.method} {request.url.copy_with(query=None, userinfo=b'')}"
        try:
            async with asyncio.timeout(timeout):
                response = await self._shared().send(request, stream=True)
                try:
                    answer = await read_answer(response, asked, self._settings.max_body)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise HttpFailed(f"{asked} had no answer within {timeout:g} s") from error
        except httpx.TransportError as error:
            raise HttpFailed(f"{asked} failed: {error or type(error).__name__}") from error
        _check_status(asked, answer, expected)
        return answer


def http_task(settings: HttpSettings) -> HttpTask:
    """The handler; close it with ``aclose`` when the node stops."""
    return HttpTask(settings)


def _headers(given: dict[str, str], key: str, has_json: bool) -> dict[str, str]:
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise _invalid(f"headers/{name}", "a header is a name without spaces and one line of ASCII")
    own = {"Idempotency-Key": key} | ({"Content-Type": "application/json"} if has_json else {})
    named = {name.lower() for name in given}
    return given | {name: value for name, value in own.items() if name.lower() not in named}


def _check_status(asked: str, answer: dict[str, Any], expected: int | list[int] | None) -> None:
    status: int = answer["status"]
    wanted = [expected] if isinstance(expected, int) else expected
    if status in wanted if wanted is not None else 200 <= status < 300:
        return
    sentence = f"{asked} answered {status}, not {' or '.join(map(str, wanted)) if wanted else '2xx'}"
    if 300 <= status < 400:
        sentence += f" (redirects are not followed; it points to {answer['headers'].get('location', 'nowhere')})"
    elif answer["body"]:
        sentence += f": {str(answer['body'])[:200]}"
    raise (HttpFailed if status in _NOT_NOW or status >= 500 else HttpRefused)(sentence)


def _invalid(place: str, message: str) -> InputsInvalid:
    return InputsInvalid("http", [Fault(f"/{place}", message)])
