"""The `http` task against a real server on loopback."""

import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from perdure.tasks.http import HttpFailed, HttpRefused, HttpTask, http_task
from perdure.tasks.response import ResponseRefused
from perdure.tasks.settings import HttpSettings
from perdure_engine.calling import call
from perdure_engine.errors import InputsInvalid, NoRetry
from perdure_engine.handlers import task_type
from perdure_engine.task import Task

RUN = uuid.UUID("019a0000-0000-7000-8000-000000000001")
KEY = f"{RUN}:notify"


class Seen(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Server(ThreadingHTTPServer):
    """Answers with what it is told, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.seen: list[Seen] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes = b""
        self.pause = 0.0
        """Seconds between the bytes of the body."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append(Seen(self.command, self.path, headers, self.rfile.read(length)))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for byte in self.server.body if self.server.pause else [self.server.body]:
                self.wfile.write(bytes([byte]) if isinstance(byte, int) else byte)
                time.sleep(self.server.pause)
        except OSError:
            pass  # the client has heard enough

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def http() -> AsyncIterator[HttpTask]:
    http = http_task(HttpSettings(max_body=1000))
    yield http
    await http.aclose()


async def ask(http: HttpTask, server: Server, **inputs: Any) -> Any:
    given = {"url": server.url + "/a", **inputs}
    return await call(task_type("http", http), Task(RUN, "welcome", "notify", 1, given, 7))


async def test_a_request_and_its_answer(server: Server, http: HttpTask) -> None:
    server.headers = {"Content-Type": "application/json; charset=utf-8", "ETag": '"1"', "Set-Cookie": "session=1"}
    server.body = b'{"id": 18446744073709551615, "x": 1.0}'
    output = await ask(http, server, json={"name": "Ä"}, headers={"Authorization": "Bearer t"}, params={"q": ["a", 1]})
    (seen,) = server.seen
    assert (seen.method, seen.path, json.loads(seen.body)) == ("POST", "/a?q=a&q=1", {"name": "Ä"})
    assert (seen.headers["authorization"], seen.headers["content-type"]) == ("Bearer t", "application/json")
    assert (output["status"], output["body"]) == (200, {"id": 18446744073709551615, "x": 1.0})
    assert output["headers"]["etag"] == '"1"'
    assert "set-cookie" not in output["headers"]


@pytest.mark.parametrize(
    ("inputs", "method", "body"),
    [
        ({}, "GET", b""),
        ({"body": "text"}, "POST", b"text"),
        ({"json": None}, "POST", b"null"),
        ({"method": "PUT", "json": [1]}, "PUT", b"[1]"),
        ({"method": "DELETE"}, "DELETE", b""),
    ],
)
async def test_the_method_follows_from_the_body_unless_given(
    server: Server, http: HttpTask, inputs: dict[str, Any], method: str, body: bytes
) -> None:
    await ask(http, server, **inputs)
    assert (server.seen[0].method, server.seen[0].body) == (method, body)


async def test_every_attempt_carries_the_same_idempotency_key(server: Server, http: HttpTask) -> None:
    for _ in range(2):
        await ask(http, server)
    await ask(http, server, headers={"idempotency-key": "mine"})
    assert [seen.headers["idempotency-key"] for seen in server.seen] == [KEY, KEY, "mine"]


async def test_one_tasks_cookie_is_not_sent_with_the_next(server: Server, http: HttpTask) -> None:
    server.headers = {"Set-Cookie": "session=1; Path=/"}
    await ask(http, server)
    await ask(http, server)
    assert "cookie" not in server.seen[1].headers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, HttpRefused), (404, HttpRefused), (301, HttpRefused),
        (408, HttpFailed), (425, HttpFailed), (429, HttpFailed), (500, HttpFailed), (503, HttpFailed),
    ],
)  # fmt: skip
async def test_what_another_try_may_change_is_retried_and_nothing_else(
    server: Server, http: HttpTask, status: int, error: type[Exception]
) -> None:
    server.status = status
    server.body = b"because"
    with pytest.raises(error, match=f"answered {status}, not 2xx") as failed:
        await ask(http, server, params={"token": "s3cret"})
    assert isinstance(failed.value, NoRetry) is (error is HttpRefused)
    assert "s3cret" not in str(failed.value)


async def test_the_error_shows_what_the_server_said(server: Server, http: HttpTask) -> None:
    server.status, server.body = 400, b'{"error": "no such user"}'
    server.headers = {"Content-Type": "application/json"}
    with pytest.raises(HttpRefused, match=r"GET http://127\.0\.0\.1:\d+/a answered 400, not 2xx: .*no such user"):
        await ask(http, server)


async def test_a_redirect_is_not_followed(server: Server, http: HttpTask) -> None:
    server.status, server.headers = 302, {"Location": server.url + "/b"}
    with pytest.raises(HttpRefused, match=r"redirects are not followed; it points to http://.*/b"):
        await ask(http, server)
    assert len(server.seen) == 1
    assert (await ask(http, server, expected_status=302))["headers"]["location"].endswith("/b")


@pytest.mark.parametrize(("expected", "fits"), [(404, True), ([200, 404], True), (200, False), ([200, 201], False)])
async def test_the_expected_status_is_the_definitions_to_say(
    server: Server, http: HttpTask, expected: int | list[int], fits: bool
) -> None:
    server.status = 404
    if fits:
        assert (await ask(http, server, expected_status=expected))["status"] == 404
    else:
        with pytest.raises(HttpRefused, match="answered 404, not 200"):
            await ask(http, server, expected_status=expected)


async def test_the_timeout_counts_the_whole_exchange(server: Server, http: HttpTask) -> None:
    server.body, server.pause = b"x" * 50, 0.05
    began = time.monotonic()
    with pytest.raises(HttpFailed, match=r"had no answer within 0\.3 s"):
        await ask(http, server, timeout=0.3)
    assert time.monotonic() - began < 1.5


async def test_a_server_that_is_not_there_is_tried_again(server: Server, http: HttpTask) -> None:
    with pytest.raises(HttpFailed, match="failed"):
        await ask(http, server, url="http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain; charset=latin-1", "Grüße".encode("latin-1"), "Grüße"),
        ("application/problem+json", b"[1]", [1]),
        ("text/plain", b"", None),
        ("application/json", b"", None),
        ("text/plain", b"x" * 1000, "x" * 1000),
    ],
)
async def test_the_body_is_json_text_or_nothing(
    server: Server, http: HttpTask, content_type: str, body: bytes, expected: Any
) -> None:
    server.headers, server.body = {"Content-Type": content_type}, body
    assert (await ask(http, server))["body"] == expected


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        ("text/plain", b"x" * 1001, "larger than 1,000 bytes"),
        ("image/png", b"\x89PNG", r"not text \(image/png"),
        ("application/json", b"{", "not JSON"),
        ("application/json", b"18446744073709551616", "beyond 64 bits"),
        ("text/plain", b"a\0b", r"U\+0000"),
    ],
)
async def test_a_body_the_log_cannot_keep_is_refused_and_not_asked_for_again(
    server: Server, http: HttpTask, content_type: str, body: bytes, sentence: str
) -> None:
    server.headers, server.body = {"Content-Type": content_type}, body
    with pytest.raises(ResponseRefused, match=f"answered 200, but its body cannot be kept: .*{sentence}"):
        await ask(http, server)
    server.status = 503
    with pytest.raises(HttpFailed, match="answered 503"):
        await ask(http, server)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"url": "ftp://example.org"}, "/url: a URL begins with http"),
        ({"url": "/a"}, "/url: a URL begins with http"),
        ({"url": "http://127.0.0.1:99999"}, "/url: .* at most 65535"),
        ({"url": "http://127.0.0.1:port"}, "this request cannot be made"),
        ({"json": 1, "body": "x"}, "/body: a request has one body"),
        ({"method": "get"}, "/method: Input should be 'GET'"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "/headers/X-A: a header is a name without spaces"),
        ({"headers": {"X A": "a"}}, "/headers/X A: a header is a name without spaces"),
        ({"headers": {"X-A": "ä✓"}}, "/headers/X-A: a header is a name without spaces"),
        ({"timeout": 0}, "/timeout: Input should be greater than 0"),
        ({"retries": 3}, "/retries: the handler takes no such input"),
    ],
)
async def test_a_request_that_cannot_be_sent_is_refused(
    server: Server, http: HttpTask, inputs: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputsInvalid, match=sentence):
        await ask(http, server, **inputs)
    assert server.seen == []


async def test_after_closing_it_connects_anew(server: Server, http: HttpTask) -> None:
    await ask(http, server)
    await http.aclose()
    assert (await ask(http, server))["status"] == 200
