"""The clients on httpx (``pip install keylatch-client[httpx]``).

::

    with Client(httpx.Client(base_url="https://shop.example"), journal=SqliteJournal("intents.db")) as client:
        answer = client.post("/api/orders", json=order, key=Key.derive(["order", user, cart]))
        print(answer.response.json(), answer.replayed)

The session of httpx decides on everything else: base URL, credentials, connections, proxies, TLS. A redirect is an
answer, and is not followed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Self

import httpx

from ._client import Base, Resumed, drive, drive_async
from .answer import Answer
from .call import Got, Lost, Send
from .clock import Clock
from .errors import IdempotencyError
from .event import Event
from .journal import Journal
from .key import Key
from .policy import Policy
from .profile import DRAFT, Profile, Reply
from .request import Request


class Client(Base[httpx.Response]):
    """Sends requests through ``session``. Threads may share it. It closes the session, but not the journal, when it is
    closed."""

    def __init__(
        self,
        session: httpx.Client | None = None,
        *,
        journal: Journal | None = None,
        profile: Profile = DRAFT,
        policy: Policy | None = None,
        observe: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(journal=journal, profile=profile, policy=policy, observe=observe, clock=clock)
        self._session = session or httpx.Client()
        self._base_url = str(self._session.base_url)

    def post(
        self,
        url: str,
        *,
        key: Key | None = None,
        json: object = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer[httpx.Response]:
        """:meth:`request` with the method POST."""
        return self.request("POST", url, key=key, json=json, content=content, headers=headers)

    def request(
        self,
        method: str,
        url: str,
        *,
        key: Key | None = None,
        json: object = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer[httpx.Response]:
        """Sends a request until there is a final answer, which may be one of a failure (``answer.status``).

        :param key: the key of the intent; a random one if it is not given.
        :raises IdempotencyError: if there is no final answer. Each kind says what to do.
        :raises httpx.HTTPError: if httpx cannot send such a request at all.
        """
        request = Request.of(method, _absolute(self._base_url, url), headers=headers, content=content, json=json)
        return self._run(key or Key.random(), request)

    def resume(self) -> Iterator[Resumed[httpx.Response]]:
        """Finishes what the journal has from before, one by one, with the same keys and bytes. What cannot be finished
        now stays in the journal."""
        for entry in self._pending():
            try:
                yield Resumed(entry, self._run(entry.key, entry.request), None)
            except IdempotencyError as error:
                yield Resumed(entry, None, error)

    def _run(self, key: Key, request: Request) -> Answer[httpx.Response]:
        with self._steps(key, request) as steps:
            return drive(steps, lambda step: self._send(request, step), self._settings.clock)

    def _send(self, request: Request, step: Send) -> Got[httpx.Response] | Lost:
        try:
            return _got(self._session.send(_build(self._session, request, step), follow_redirects=False))
        except _LOST as error:
            return _lost(error)

    def close(self) -> None:
        """Closes the session."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Base[httpx.Response]):
    """As :class:`Client`, for asyncio. A call that is cancelled stops at once; its intent stays in the journal."""

    def __init__(
        self,
        session: httpx.AsyncClient | None = None,
        *,
        journal: Journal | None = None,
        profile: Profile = DRAFT,
        policy: Policy | None = None,
        observe: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(journal=journal, profile=profile, policy=policy, observe=observe, clock=clock)
        self._session = session or httpx.AsyncClient()
        self._base_url = str(self._session.base_url)

    async def post(
        self,
        url: str,
        *,
        key: Key | None = None,
        json: object = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer[httpx.Response]:
        """:meth:`request` with the method POST."""
        return await self.request("POST", url, key=key, json=json, content=content, headers=headers)

    async def request(
        self,
        method: str,
        url: str,
        *,
        key: Key | None = None,
        json: object = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer[httpx.Response]:
        """As :meth:`Client.request`."""
        request = Request.of(method, _absolute(self._base_url, url), headers=headers, content=content, json=json)
        return await self._run(key or Key.random(), request)

    async def resume(self) -> AsyncIterator[Resumed[httpx.Response]]:
        """As :meth:`Client.resume`."""
        for entry in await asyncio.to_thread(self._pending):
            try:
                yield Resumed(entry, await self._run(entry.key, entry.request), None)
            except IdempotencyError as error:
                yield Resumed(entry, None, error)

    async def _run(self, key: Key, request: Request) -> Answer[httpx.Response]:
        with self._steps(key, request) as steps:
            return await drive_async(steps, lambda step: self._send(request, step), self._settings.clock)

    async def _send(self, request: Request, step: Send) -> Got[httpx.Response] | Lost:
        try:
            async with asyncio.timeout(step.time_s_max):
                return _got(await self._session.send(_build(self._session, request, step), follow_redirects=False))
        except TimeoutError as error:
            return Lost("silent", error)
        except _LOST as error:
            return _lost(error)

    async def aclose(self) -> None:
        """Closes the session."""
        await self._session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


# What may have reached the server. All others are mistakes in the request, or answers that cannot be decoded.
_LOST = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)


@lru_cache(maxsize=256)
def _absolute(base: str, url: str) -> str:
    """The URL as httpx makes it of ``url`` and its ``base_url``. A program calls the same few again and again."""
    given = httpx.URL(url)
    return str(given if given.is_absolute_url else httpx.URL(f"{base.rstrip('/')}/{url.lstrip('/')}"))


def _build(session: httpx.Client | httpx.AsyncClient, request: Request, step: Send) -> httpx.Request:
    headers = {**request.headers, **step.headers}
    return session.build_request(
        request.method, request.url, content=request.body, headers=headers, timeout=step.time_s_max
    )


def _got(response: httpx.Response) -> Got[httpx.Response]:
    return Got(Reply(response.status_code, response.headers, response.content), response)


def _lost(error: httpx.TransportError) -> Lost:
    return Lost("silent" if isinstance(error, httpx.TimeoutException) else "lost", error)
