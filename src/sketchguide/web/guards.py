"""What every request to the drawing page has to pass, before any route is looked for, and what every answer carries.

Web frameworks take any Host header, bodies without end and bodies that drip for ever. A page of another site that the
user has open can send requests to this server; what it must not do is to have them answered.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 32 * 2**20  # of a body: a photograph from a camera
DEADLINE = 30.0  # seconds for a whole body, and those that it takes at SLOWEST
SLOWEST = 64 * 2**10  # bytes per second

_TOLD = 2000  # characters of a message
COOKIE_AGE = 365 * 24 * 3600  # seconds
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
)
OPEN = frozenset({"/health"})  # routes that need no token


class Guards:
    """ASGI middleware: Host and Origin, the token, the size and the pace of bodies, security headers.

    Args:
        hosts: names that the server is reached by, beside localhost and plain addresses. A name that anybody can point
            at this machine would let a page of theirs read the answers (DNS rebinding).
        token: what to present as `Authorization: Bearer …`, or once as `/?token=…`, which becomes a cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] = (),
        token: str | None = None,
        most_bytes: int = MOST_BYTES,
        deadline: float = DEADLINE,
    ) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts} | {"localhost"}
        # Where other services of this machine are reached too, a page of theirs would pass for one of this server.
        self.named = {host for host in self.hosts if host != "localhost" and not _is_address(host)}
        self.token = token
        self.most_bytes = most_bytes
        self.deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refused = None
        if not self._own_host(headers):
            refused = "This server is not reached by that name.", "Start it with --name HOST."
        elif not self._own_origin(headers):
            refused = "A page of another site asked.", "Behind a proxy start it with --name, the HOST of the address."
        if refused is not None:
            message, hint = refused
            await _refusal(403, "forbidden", message, hint=hint)(scope, receive, send_guarded)
            return
        if self.token is not None and scope["path"] not in OPEN:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if given and scope["path"] == "/" and self._is_token(given):
                # Lax: a link in a mail leads here from another site, and nothing is changed by GET
                cookie = f"{_cookie(scope)}={self.token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={COOKIE_AGE}"
                entry = RedirectResponse("./", status_code=303, headers={"set-cookie": cookie})
                await entry(scope, receive, send_guarded)
                return
            if not self._is_token(_presented(headers, _cookie(scope))):
                message = "This server asks for its token."
                hint = "Open the address that `sketchguide serve` printed."
                await _refusal(401, "unauthorized", message, hint=hint, **{"www-authenticate": "Bearer"})(
                    scope, receive, send_guarded
                )
                return
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            await self.app(scope, receive, send_guarded)
            return
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            length = 0
        body = None
        if length <= self.most_bytes:
            deadline = self.deadline + max(0, length) / SLOWEST
            try:
                async with asyncio.timeout(deadline):
                    body = await self._whole(receive)
            except TimeoutError:
                message = f"The body took more than {deadline:.0f} seconds."
                await _refusal(408, "too_slow", message)(scope, receive, send_guarded)
                return
            except ConnectionError:
                return
        if body is None:
            message = f"The body is larger than the {self.most_bytes / 2**20:.0f} MB allowed."
            await _refusal(413, "too_large", message)(scope, receive, send_guarded)
            return
        given_once = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive_whole() -> Message:
            return next(given_once, None) or await receive()

        await self.app(scope, receive_whole, send_guarded)

    def _own_host(self, headers: Headers) -> bool:
        given = headers.getlist("host")
        return len(given) == 1 and self._is_own(given[0])

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.lower() in self.hosts or _is_address(name)

    def _own_origin(self, headers: Headers) -> bool:
        """A page of another site says in `Origin` that it is one. A proxy may have changed the Host, not the Origin."""
        origins = headers.getlist("origin")
        return not origins or (
            len(origins) == 1 and origins[0].partition("://")[2].lower() in (headers["host"].lower(), *self.named)
        )

    def _is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    async def _whole(self, receive: Receive) -> bytes | None:
        """The body; None where it is too large, ConnectionError where its sender has left."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.most_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(scope: Scope) -> str:
    """The name of the cookie: browsers give those of one port to every other one."""
    return f"sketchguide-{(scope.get('server') or (None, None))[1]}"


def _presented(headers: Headers, cookie: str) -> str:
    """The token that a request comes with, in its header or its cookie; else nothing."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip()
    return cookie_parser(headers.get("cookie", "")).get(cookie, "")


def error_answer(status: int, error: Mapping[str, str], **headers: str) -> Response:
    """`error` as `SketchguideError.as_dict` gives it; of what it repeats, no more than fits, and as text."""
    told = {name: text[:_TOLD].encode("utf-8", "replace").decode() for name, text in error.items()}
    return JSONResponse({"error": told}, status_code=status, headers=headers)


def _refusal(status: int, code: str, message: str, *, hint: str = "", **headers: str) -> Response:
    """What ends the connection: of a body that was not read the rest would come as the next request."""
    error = {"code": code, "message": message, "hint": hint, "field": ""}
    return error_answer(status, error, connection="close", **headers)
