"""What the clients share: settings, the keys in use, and the drivers of a call's steps."""

import asyncio
import itertools
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from .answer import Answer
from .call import Got, Lost, Pause, Send, Settings, Steps, call
from .clock import Clock
from .errors import IdempotencyError, KeyReused
from .event import Event
from .journal import Entry, Journal
from .key import Key
from .policy import Policy, RetryBudget
from .profile import DRAFT, Profile
from .request import Request

R = TypeVar("R")

KEYS_BOUND_MAX = 10_000
"""How many keys a client remembers, each with the fingerprint of its request (about 200 bytes)."""


@dataclass(frozen=True, slots=True)
class Resumed(Generic[R]):
    """What became of an intent from the journal: an answer or an error."""

    entry: Entry
    answer: Answer[R] | None
    error: IdempotencyError | None


class Base(Generic[R]):
    """A client, without the way in which it sends."""

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        profile: Profile = DRAFT,
        policy: Policy | None = None,
        observe: Callable[[Event], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        :param journal: keeps intents over crashes; without one, an intent ends with the process.
        :param profile: the rules of the server.
        :param policy: the limits.
        :param observe: is told each step of each call. It must be fast. An error in it ends the call.
        :param clock: for tests.
        """
        policy, clock = policy or Policy(), clock or Clock()
        if policy.time_s_max >= profile.key_s_max:
            raise ValueError(
                f"time_s_max must be less than the {profile.key_s_max} seconds for which the server keeps keys"
            )
        budget = RetryBudget(policy, clock.now())
        self._settings = Settings(profile, policy, budget, clock, journal, observe)
        self._numbers = itertools.count(1)
        self._bound: OrderedDict[str, bytes] = OrderedDict()
        self._running: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def _steps(self, key: Key, request: Request) -> Iterator[Steps[R]]:
        """The steps of a call, which end with it."""
        with self._lock:
            self._bind(key, request)
            self._running[key.text] = self._running.get(key.text, 0) + 1
        steps: Steps[R] = call(self._settings, next(self._numbers), Entry(key, request, self._settings.clock.unix_s()))
        try:
            yield steps
        finally:
            steps.close()
            with self._lock:
                self._running[key.text] -= 1
                if not self._running[key.text]:
                    del self._running[key.text]

    def _bind(self, key: Key, request: Request) -> None:
        """Binds the key to the request. Raises :class:`KeyReused` if it is bound to another one."""
        fingerprint = request.fingerprint()
        if self._bound.setdefault(key.text, fingerprint) != fingerprint:
            raise KeyReused(key, 0)
        self._bound.move_to_end(key.text)
        if len(self._bound) > KEYS_BOUND_MAX:
            self._bound.popitem(last=False)

    def _pending(self) -> list[Entry]:
        """The intents of the journal that no call of this client is about to finish."""
        journal = self._settings.journal
        if journal is None:
            raise ValueError("this client has no journal to resume from")
        entries = journal.pending()
        with self._lock:
            return [entry for entry in entries if entry.key.text not in self._running]


def drive(steps: Steps[R], send: Callable[[Send], Got[R] | Lost], clock: Clock) -> Answer[R]:
    """Does the steps of a call in this thread. ``send`` sends the request once, and reads the answer to its end."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Send):
                step = steps.send(send(step))
            elif isinstance(step, Pause):
                clock.sleep(step.seconds)
                step = next(steps)
            else:
                step = steps.send(step.run())
    except StopIteration as end:
        answer: Answer[R] = end.value
        return answer


async def drive_async(steps: Steps[R], send: Callable[[Send], Awaitable[Got[R] | Lost]], clock: Clock) -> Answer[R]:
    """Does the steps of a call in this task. What waits for a disk is done in a thread."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Send):
                step = steps.send(await send(step))
            elif isinstance(step, Pause):
                await clock.sleep_async(step.seconds)
                step = next(steps)
            else:
                step = steps.send(await asyncio.to_thread(step.run))
    except StopIteration as end:
        answer: Answer[R] = end.value
        return answer
