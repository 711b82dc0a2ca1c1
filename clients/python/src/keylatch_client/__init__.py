"""HTTP requests that take effect once, however often they have to be sent.

Rules:

1. A call has one key (:class:`Key`), and each of its tries sends this key with the same bytes. A key belongs to one
   request: with another method, URL or body, the call fails before anything is sent.
2. The server decides what happens next (:mod:`~keylatch_client.profile`). A final answer ends the call, whatever its
   status. What may be tried again is tried again, after the time that the server asks for.
3. Everything has a limit (:class:`Policy`): tries, time, and the retries of all calls of one client together.
4. With a journal (:class:`SqliteJournal`), key and request are on disk before the first try. After a crash,
   ``client.resume()`` finishes what was begun, with the same keys.
5. An error says what to do (:mod:`~keylatch_client.errors`). None of them is a reason to use a new key for the same
   intent.

The clients are :class:`keylatch_client.httpx.Client`, :class:`keylatch_client.httpx.AsyncClient` and
:class:`keylatch_client.requests.Client`.

Where things are: ``call`` is what happens to one call, step by step and without I/O; ``profile`` is what answers mean;
``policy`` has the limits and pauses; ``key`` and ``request`` the identity of a call; ``journal`` the durable intents;
``_client`` what the clients share.
"""

from ._client import Resumed
from .answer import Answer
from .errors import (
    GaveUp,
    IdempotencyError,
    InvalidKey,
    JournalFull,
    KeyExpired,
    KeyReused,
    OutcomeUnknown,
    ResponseNotRetained,
)
from .event import Event
from .journal import Entry, Journal, SqliteJournal
from .key import Key
from .policy import Policy
from .profile import DRAFT, STRIPE, Profile
from .request import Request

__all__ = [
    "DRAFT",
    "STRIPE",
    "Answer",
    "Entry",
    "Event",
    "GaveUp",
    "IdempotencyError",
    "InvalidKey",
    "Journal",
    "JournalFull",
    "Key",
    "KeyExpired",
    "KeyReused",
    "OutcomeUnknown",
    "Policy",
    "Profile",
    "Request",
    "ResponseNotRetained",
    "Resumed",
    "SqliteJournal",
]
