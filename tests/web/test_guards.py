"""Who is answered, and what is read of whom."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.testclient import TestClient

from served import ASKED, Served, serving
from sketchguide.web import server
from sketchguide.web.app import create_app
from sketchguide.web.guards import Guards
from sketchguide.web.jobs import Desk

NETWORK = "small"
TOKEN = "0123456789abcdef"


@pytest.fixture
def locked(desk: Desk) -> Iterator[TestClient]:
    app = create_app(desk, token=TOKEN, hosts=["draw.example"])
    with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


@pytest.fixture
def served(desk: Desk) -> Iterator[Served]:
    with serving(desk) as served:
        yield served


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:80", "192.168.1.7:7860"])
def test_its_own_hosts(client: TestClient, host: str):
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "a@b"])
def test_other_hosts_are_refused(client: TestClient, host: str):
    answer = client.get("/health", headers={"host": host})
    assert answer.status_code == 403
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_host_that_was_allowed(locked: TestClient):
    assert locked.get("/health", headers={"host": "draw.example:443"}).status_code == 200
    assert locked.get("/health", headers={"host": "other.example"}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", "http://127.0.0.1:8000.evil"])
def test_pages_of_others_are_refused(client: TestClient, origin: str):
    assert client.post("/api/jobs", json=ASKED, headers={"origin": origin}).status_code == 403
    assert client.get("/api/about", headers={"origin": origin}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "draw.example", "draw.example:443"])
def test_a_proxy_may_hand_on_another_host(locked: TestClient, host: str):
    bearer = {"authorization": f"Bearer {TOKEN}", "host": host}
    own = {"origin": "https://draw.example"}
    assert locked.get("/api/about", headers=bearer | own).status_code == 200
    for other in ("https://draw.example:8443", "https://other.example", "http://localhost"):
        refused = locked.get("/api/about", headers=bearer | {"origin": other})
        assert refused.status_code == 403
        assert "--name" in refused.json()["error"]["hint"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_pages_of_other_services_of_this_machine_are_refused(desk: Desk, host: str):
    with TestClient(create_app(desk, hosts=[host]), base_url="http://127.0.0.1:7860") as client:
        assert client.get("/api/about").status_code == 200
        assert client.get("/api/about", headers={"origin": f"http://{host}"}).status_code == 403


def test_its_own_page_is_answered(client: TestClient):
    own = {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}
    assert client.post("/api/jobs", json=ASKED, headers=own).status_code == 202


@pytest.mark.parametrize(
    "path", ["/", "/page/page.js", "/api/about", "/api/openapi.json", "/api/jobs/x", "/ready", "/x"]
)
def test_without_the_token_nothing_is_answered(locked: TestClient, path: str):
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"cookie": "sketchguide-80=wrong"},
    ):
        answer = locked.get(path, headers=headers)
        assert answer.status_code == 401
        assert TOKEN not in answer.text
    assert locked.get(path + "?token=wrong").status_code == 401
    assert locked.post("/api/jobs", json=ASKED).status_code == 401
    assert locked.get("/health").status_code == 200


def test_the_token_opens_by_header_and_by_address(locked: TestClient):
    assert locked.get("/api/about", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.get(f"/api/about?token={TOKEN}").status_code == 401  # only the page's own address takes it
    entry = locked.get(f"/?token={TOKEN}")
    assert (entry.status_code, entry.headers["location"]) == (303, "./")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(entry.headers["set-cookie"].split("; "))
    assert locked.get("/").status_code == 200  # the client keeps the cookie
    assert locked.get("/api/about").status_code == 200


@pytest.mark.parametrize("other", ['a={"x": 1}', "a[b]=c", 'theme="a b', "x=\xe4", "=", ";;"])
def test_cookies_of_others_do_no_harm(locked: TestClient, other: str):
    cookie = f"{other}; sketchguide-80={TOKEN}".encode("latin-1")
    assert locked.get("/api/about", headers={"cookie": cookie}).status_code == 200  # pyright: ignore[reportArgumentType]


def test_every_answer_carries_the_headers(client: TestClient, locked: TestClient):
    answers = [client.get(path) for path in ("/", "/page/page.js", "/api/about", "/none", "/health")]
    answers += [client.post("/api/jobs", content=b"{"), locked.get("/"), client.get("/", headers={"host": "evil"})]
    for answer in answers:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_large_bodies_are_refused_unread(desk: Desk):
    app = Guards(create_app(desk), most_bytes=1000)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/api/sketches", content=b"x" * 1001).status_code == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(11):
                yield b"x" * 100

        answer = client.post("/api/sketches", content=chunks())
        assert answer.status_code == 413
        assert "0 MB allowed" in answer.json()["error"]["message"]
        assert client.post("/api/sketches", content=b"x" * 1000).status_code == 422


def _talk(served: Served, *parts: bytes, pause: float = 0.0) -> bytes:
    host, _, port = served.url.removeprefix("http://").rstrip("/").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for part in parts:
            with suppress(BrokenPipeError):  # it has heard enough
                connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


HEAD = b"POST /api/sketches HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"


def test_a_body_that_drips_is_cut_off(desk: Desk):
    with serving(desk, deadline=0.3) as served:
        started = time.monotonic()
        answer = _talk(served, HEAD + b"Content-Length: 1000\r\n\r\n", b"x", b"x", b"x", pause=0.2)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5


def test_a_head_that_drips_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HEAD_DEADLINE", 0.3)
    started = time.monotonic()
    assert _talk(served, b"GET / HTTP/1.1\r\n", b"Host: ", b"127", b".0.", pause=0.2) == b""
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert _talk(served, whole, b"GET /he", pause=0.1).count(b"HTTP/1.1 200") == 1
    assert time.monotonic() - started < 5


def test_whoever_does_not_read_cannot_keep_the_server_alive(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "GRACE", 0.5)
    page = b"GET /page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(desk) as served:
        host, _, port = served.url.removeprefix("http://").rstrip("/").partition(":")
        lazy = socket.create_connection((host, int(port)))
        lazy.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(20_000):
                lazy.send(page)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    lazy.close()


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"Content-Length: 99999999999\r\n\r\n", b"413"),
        (b"Content-Length: nonsense\r\n\r\n", b"400"),
        (b"Content-Length: 2\r\n\r\n{}and more", b"422"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"Host: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", b"400"),
    ],
)
def test_lengths_that_lie(served: Served, rest: bytes, status: bytes):
    assert _talk(served, HEAD + rest).startswith(b"HTTP/1.1 " + status)


def test_who_hangs_up_leaves_the_server_well(served: Served):
    host, _, port = served.url.removeprefix("http://").rstrip("/").partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\nx")
    answer: Any = _talk(served, b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b'{"ready":true}' in answer
