"""``longrlvr watch``: the report of a run, served while it goes on.

The page asks for ``data.json`` now and then and gets it anew when a file of the run has changed.
On the loopback address anybody with an account on the machine can read along, as they could read a
file; a request from a web page elsewhere is refused by its Host header. Any other address shows
nothing without the token, which the printed address holds and a cookie keeps.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.observability.samples import SampleRecord, read_samples
from megatron_longrlvr.reporting.page import default_title, render_page
from megatron_longrlvr.reporting.payload import build_payload, to_script_json
from megatron_longrlvr.reporting.run_record import load_runs

TOKEN_VARIABLE = "LONGRLVR_WATCH_TOKEN"
MIN_TOKEN_CHARS = 16
COOKIE = "longrlvr_watch"

MAX_ROLLOUTS = 2000
"""Of a live page, which travels again with every change."""

MAX_READ_BYTES = 2**27
"""Of sample files, since what was read is kept in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchRequest:
    """What to serve, and where."""

    run_dirs: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any."""

    refresh_s: float = 10.0
    """Between two looks of the page."""

    title: str | None = None


def watch(request: WatchRequest, *, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        request: What to serve.
        say: Told of the address.

    Raises:
        ConfigError: The address cannot be listened at, or a directory is no run.
    """
    server = open_server(request)
    say(f"serving {server.address}  (Ctrl-C ends)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def open_server(request: WatchRequest) -> WatchServer:
    """Listen, without answering yet.

    Raises:
        ConfigError: As for :func:`watch`.
    """
    try:
        live = LiveReport(request)
        live.page()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    token = None if is_loopback(request.host) else _token()
    try:
        return WatchServer(request, live, token)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at --host {request.host} --port {request.port}: {error}; "
            "choose another (--port 0 takes any)"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return secrets.token_urlsafe(24)
    if len(token) < MIN_TOKEN_CHARS:
        raise ConfigError(
            f"{TOKEN_VARIABLE} has {len(token)} characters, needs {MIN_TOKEN_CHARS} or more"
        )
    return token


class LiveReport:
    """The report of runs as they are now; what has not changed is not read again."""

    def __init__(self, request: WatchRequest) -> None:
        self._request = request
        self._lock = Lock()
        self._tag = ""
        self._payload: dict[str, Any] = {}
        self._samples: dict[Path, tuple[tuple[int, int], Sequence[SampleRecord]]] = {}

    def page(self) -> str:
        """The HTML page with the newest data in it."""
        with self._lock:
            self._look()
            return render_page(self._payload, refresh_s=self._request.refresh_s)

    def data(self, known_tag: str | None) -> tuple[str, str | None]:
        """Tag of the newest data, and the data as JSON; None where the tag is known already."""
        with self._lock:
            self._look()
            if known_tag == self._tag:
                return self._tag, None
            return self._tag, to_script_json(self._payload)

    def _look(self) -> None:
        tag = self._state_of_files()
        if tag == self._tag:
            return
        runs = load_runs(self._request.run_dirs)
        self._payload = build_payload(
            runs,
            title=self._request.title or default_title(runs),
            max_rollouts=MAX_ROLLOUTS,
            max_read_bytes=MAX_READ_BYTES,
            read=self._read,
        )
        self._tag = tag

    def _state_of_files(self) -> str:
        files = [
            file
            for run_dir in self._request.run_dirs
            for pattern in ("*.json", "metrics.jsonl", "samples/*.jsonl", "alarms/*.jsonl")
            for file in sorted(run_dir.glob(pattern))
        ]
        state = [(str(file), *_stamp(file)) for file in files]
        return f'"{hash(tuple(state)) & (2**64 - 1):016x}"'

    def _read(self, path: Path) -> Sequence[SampleRecord]:
        stamp = _stamp(path)
        known = self._samples.get(path)
        if known is None or known[0] != stamp:
            known = self._samples[path] = (stamp, read_samples(path))
        return known[1]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


class WatchServer(ThreadingHTTPServer):
    """Answers for one :class:`LiveReport`."""

    daemon_threads = True

    def __init__(self, request: WatchRequest, live: LiveReport, token: str | None) -> None:
        if ":" in request.host:
            self.address_family = AF_INET6
        super().__init__((request.host, request.port), _Handler)
        self.live = live
        self.token = token
        self.host = request.host

    @property
    def address(self) -> str:
        """To open in a browser; holds the token where there is one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"?token={self.token}" if self.token else ""
        return f"http://{host}:{self.server_address[1]}/{query}"


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    server_version = "longrlvr"
    sys_version = ""

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if not self._is_addressed_here():
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "this host name is not served\n")
        elif not self._is_allowed(place.query):
            self._answer(HTTPStatus.UNAUTHORIZED, "text/plain", "the token is missing or wrong\n")
        elif place.path == "/":
            self._serve_page(place.query)
        elif place.path == "/data.json":
            self._serve_data()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is / and /data.json\n")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line, and their addresses may hold the token."""

    def _is_addressed_here(self) -> bool:
        """Refuses names that somebody else's web page points at the loopback address."""
        if self.server.token is not None:
            return True
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return is_loopback(name)

    def _is_allowed(self, query: str) -> bool:
        token = self.server.token
        if token is None:
            return True
        given = [*parse_qs(query).get("token", []), self._cookie()]
        return any(hmac.compare_digest(one.encode(), token.encode()) for one in given)

    def _cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _serve_page(self, query: str) -> None:
        if self.server.token is not None and parse_qs(query).get("token"):
            # Out of the address, where it would stay in histories and logs.
            cookie = f"{COOKIE}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            self._answer(HTTPStatus.SEE_OTHER, "text/plain", "", Location="/", Set_Cookie=cookie)
            return
        self._answer_with(lambda: ("text/html", self.server.live.page(), {}))

    def _serve_data(self) -> None:
        def data() -> tuple[str, str | None, dict[str, str]]:
            tag, text = self.server.live.data(self.headers.get("If-None-Match"))
            return "application/json", text, {"ETag": tag}

        self._answer_with(data)

    def _answer_with(self, make: Callable[[], tuple[str, str | None, dict[str, str]]]) -> None:
        try:
            kind, text, headers = make()
        except (OSError, ValueError) as error:
            # A file that is just being replaced; the page asks again.
            said = json.dumps({"error": str(error)})
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", said)
            return
        status = HTTPStatus.NOT_MODIFIED if text is None else HTTPStatus.OK
        self._answer(status, kind, text or "", **headers)

    def _answer(self, status: HTTPStatus, kind: str, text: str, **headers: str) -> None:
        body = text.encode("utf-8", errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
