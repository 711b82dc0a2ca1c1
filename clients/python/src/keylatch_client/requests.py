"""The client on requests (``pip install keylatch-client[requests]``).

::

    with Client(journal=SqliteJournal("intents.db")) as client:
        answer = client.post("https://shop.example/api/orders", json=order, key=Key.derive(["order", user, cart]))
        print(answer.response.json(), answer.replayed)

The session of requests decides on everything else: credentials, connections, proxies, TLS. A redirect is an answer, and
is not followed.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Self

import requests

from ._client import Base, Resumed, drive
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


class Client(Base[requests.Response]):
    """Sends requests through ``session``. It closes the session, but not the journal, when it is closed.

    Sessions of requests are not made for several threads. Give each thread its own client; they may share a journal.
    """

    def __init__(
        self,
        session: requests.Session | None = None,
        *,
        journal: Journal | None = None,
        profile: Profile = DRAFT,
        policy: Policy | None = None,
        observe: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(journal=journal, profile=profile, policy=policy, observe=observe, clock=clock)
        self._session = session or requests.Session()

    def post(
        self,
        url: str,
        *,
        key: Key | None = None,
        json: object = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer[requests.Response]:
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
    ) -> Answer[requests.Response]:
        """Sends a request until there is a final answer, which may be one of a failure (``answer.status``).

        :param key: the key of the intent; a random one if it is not given.
        :raises IdempotencyError: if there is no final answer. Each kind says what to do.
        :raises requests.RequestException: if requests cannot send such a request at all.
        """
        request = Request.of(method, _prepared(url), headers=headers, content=content, json=json)
        return self._run(key or Key.random(), request)

    def resume(self) -> Iterator[Resumed[requests.Response]]:
        """Finishes what the journal has from before, one by one, with the same keys and bytes. What cannot be finished
        now stays in the journal."""
        for entry in self._pending():
            try:
                yield Resumed(entry, self._run(entry.key, entry.request), None)
            except IdempotencyError as error:
                yield Resumed(entry, None, error)

    def _run(self, key: Key, request: Request) -> Answer[requests.Response]:
        with self._steps(key, request) as steps:
            return drive(steps, lambda step: self._send(request, step), self._settings.clock)

    def _send(self, request: Request, step: Send) -> Got[requests.Response] | Lost:
        try:
            response = self._session.request(
                request.method,
                request.url,
                data=request.body,
                headers={**request.headers, **step.headers},
                timeout=step.time_s_max,
                allow_redirects=False,
            )
        except requests.Timeout as error:
            return Lost("silent", error)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            return Lost("lost", error)
        return Got(Reply(response.status_code, response.headers, response.content), response)

    def close(self) -> None:
        """Closes the session."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@lru_cache(maxsize=256)
def _prepared(url: str) -> str:
    """The URL as requests sends it. A program calls the same few again and again."""
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    return request.url or url
