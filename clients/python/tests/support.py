"""A server that does what a script says, a clock that does not wait, and the three clients as one."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import keylatch_client
import keylatch_client.httpx
import keylatch_client.requests
import requests
from keylatch_client.clock import Clock

CASES = Path(os.environ.get("KEYLATCH_CASES") or Path(__file__).parents[2] / "cases")
KINDS = ("httpx", "httpx async", "requests")
CREATED = {"status": 201, "headers": {}, "body": {"order_id": "1"}}
SOON_S = 10


def cases(file: str, name: str) -> list[dict[str, Any]]:
    found = json.loads((CASES / file).read_text())[name]
    assert found, f"{file} has no {name}"
    return found


class Server:
    """Answers each request with the next step of a script. ``seen`` has what arrived."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.reached: Callable[[], None] = lambda: None
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            do_PATCH = do_POST

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients leave."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def _serve(self, at: BaseHTTPRequestHandler) -> None:
        body = at.rfile.read(int(at.headers.get("content-length", 0)))
        self.seen.append((at.command, at.path, {name.lower(): value for name, value in at.headers.items()}, body))
        self.reached()
        step = self.script.pop(0) if self.script else CREATED
        if step == "silent":
            self._over.wait(SOON_S)
        if isinstance(step, dict):
            content = step.get("body", "")
            content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            at.send_response_only(step["status"])
            for name, value in step["headers"].items():
                at.send_header(name, value)
            at.send_header("content-length", str(len(content)))
            at.end_headers()
            at.wfile.write(content)
            return
        if step == "cut":
            at.wfile.write(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{")
        at.close_connection = True
        at.wfile.flush()
        at.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()


class Fake(Clock):
    """Time passes only in pauses, which take no time."""

    def __init__(self, random: float = 1) -> None:
        self.pauses: list[float] = []
        self.at = 1000.0
        self.unix = 1_795_978_800.0
        self._random = random

    def now(self) -> float:
        return self.at

    def unix_s(self) -> float:
        return self.unix

    def random(self) -> float:
        return self._random

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.at += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Either:
    """A client of any kind, used without asyncio."""

    def __init__(self, kind: str, headers: dict[str, str] | None = None, **settings: Any) -> None:
        self.kind = kind
        self._loop = asyncio.new_event_loop() if kind == "httpx async" else None
        self.inner: Any
        if kind == "requests":
            session = requests.Session()
            session.trust_env = False
            session.headers.update(headers or {})
            self.inner = keylatch_client.requests.Client(session, **settings)
        elif self._loop:
            self.inner = keylatch_client.httpx.AsyncClient(
                httpx.AsyncClient(trust_env=False, headers=headers), **settings
            )
        else:
            self.inner = keylatch_client.httpx.Client(httpx.Client(trust_env=False, headers=headers), **settings)

    def request(self, method: str, url: str, **given: Any) -> keylatch_client.Answer[Any]:
        asked = self.inner.request(method, url, **given)
        return self._loop.run_until_complete(asked) if self._loop else asked

    def post(self, url: str, **given: Any) -> keylatch_client.Answer[Any]:
        asked = self.inner.post(url, **given)
        return self._loop.run_until_complete(asked) if self._loop else asked

    def resume(self) -> list[keylatch_client.Resumed[Any]]:
        if not self._loop:
            return list(self.inner.resume())

        async def all_of_them() -> list[keylatch_client.Resumed[Any]]:
            return [resumed async for resumed in self.inner.resume()]

        return self._loop.run_until_complete(all_of_them())

    def close(self) -> None:
        if self._loop:
            self._loop.run_until_complete(self.inner.aclose())
            self._loop.close()
        else:
            self.inner.close()


@contextmanager
def serving(kind: str, **settings: Any):
    """A client of this kind, and its server."""
    server = Server()
    client = Either(kind, **settings)
    try:
        yield client, server
    finally:
        client.close()
        server.close()
