"""One call, step by step.

:func:`call` is the whole behaviour of a client, without I/O: a generator that yields what to do next, and is sent what
came of it. A driver (see ``_client``) does the steps, with or without asyncio.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeVar

from .answer import Answer
from .clock import Clock
from .errors import GaveUp, IdempotencyError, KeyExpired, KeyReused, OutcomeUnknown, ResponseNotRetained
from .event import Event
from .journal import Entry, Journal
from .policy import Policy, RetryBudget
from .profile import Meaning, Profile, Reply

R = TypeVar("R")


@dataclass(slots=True)
class Send:
    """Send the request, with these headers besides its own. Its result is a :class:`Got` or :class:`Lost`."""

    headers: Mapping[str, str]
    time_s_max: float


@dataclass(slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(slots=True)
class Store:
    """Do something that waits for a disk. Its result is that of ``run``."""

    run: Callable[[], Any]


@dataclass(slots=True)
class Got(Generic[R]):
    """An answer that was read to its end, and what the client's library calls a response."""

    reply: Reply
    response: R


@dataclass(slots=True)
class Lost:
    """There is no answer: the connection could not be made or broke (``lost``), or the time was over (``silent``)."""

    why: Literal["lost", "silent"]
    error: Exception


@dataclass(frozen=True, slots=True)
class Settings:
    """What all calls of a client share."""

    profile: Profile
    policy: Policy
    budget: RetryBudget
    clock: Clock
    journal: Journal | None
    observe: Callable[[Event], None] | None


TRY_S_MIN = 0.001
"""No time-out is shorter: some libraries refuse 0 and less."""

Steps = Generator[Send | Pause | Store, Any, Answer[R]]

_ERRORS: Mapping[Meaning, type[IdempotencyError]] = {
    Meaning.KEY_REUSED: KeyReused,
    Meaning.OUTCOME_UNKNOWN: OutcomeUnknown,
    Meaning.NOT_RETAINED: ResponseNotRetained,
    Meaning.EXPIRED: KeyExpired,
}


def call(settings: Settings, number: int, entry: Entry) -> Steps[R]:
    """The steps of the call number ``number``. It ends with its answer, or raises an :class:`IdempotencyError`."""
    this: _Call[R] = _Call(settings, number, entry)
    try:
        return (yield from this.steps())
    except IdempotencyError as error:
        this.tell("error", why=error.name)
        raise
    except GeneratorExit:
        this.tell("error", why="stopped")
        raise


class _Call(Generic[R]):
    def __init__(self, settings: Settings, number: int, entry: Entry) -> None:
        self._settings = settings
        self._number = number
        self._entry = entry
        self._tries = 0

    def steps(self) -> Steps[R]:
        yield from self._begin()
        policy, clock = self._settings.policy, self._settings.clock
        until = clock.now() + policy.time_s_max
        headers = self._headers()
        while True:
            self._tries += 1
            self.tell("try")
            # A pause can take longer than it should.
            time_s_max = max(TRY_S_MIN, min(policy.try_s_max, until - clock.now()))
            got: Got[R] | Lost = yield Send(headers, time_s_max)
            if isinstance(got, Lost):
                pause_s = self._pause_s(until, None, None, got.error)
                self.tell("pause", why=got.why, pause_s=pause_s)
            else:
                reply = got.reply
                answer = Answer(got.response, reply.status, reply.is_replay, self._tries, self._entry.key)
                meaning = self._settings.profile.meaning(reply)
                if meaning is Meaning.ANSWER:
                    return (yield from self._end(answer))
                if error := _ERRORS.get(meaning):
                    yield from self._fail(error, answer)
                pause_s = self._pause_s(until, reply.after_s(clock.unix_s()), answer, None)
                self.tell("pause", status=reply.status, why=meaning.value, pause_s=pause_s)
            yield Pause(pause_s)

    def _begin(self) -> Generator[Store, Any, None]:
        """Writes the intent down before the first try."""
        journal, clock = self._settings.journal, self._settings.clock
        if journal is None:
            return
        mine = self._entry
        self._entry = yield Store(lambda: journal.begin(mine))
        if self._entry.request.fingerprint() != mine.request.fingerprint():
            raise KeyReused(mine.key, 0)
        # The headers of the call, because those of the journal have no credentials.
        self._entry = Entry(mine.key, mine.request, self._entry.created_unix_s)
        age_s = clock.unix_s() - self._entry.created_unix_s
        if age_s + self._settings.policy.time_s_max > self._settings.profile.key_s_max:
            raise KeyExpired(mine.key, 0, None, KeyExpired.advice_unsent)

    def _headers(self) -> Mapping[str, str]:
        headers = {"idempotency-key": self._settings.profile.header(self._entry.key)}
        if wait_s := self._settings.policy.wait_s():
            headers["prefer"] = f"wait={wait_s}"
        return headers

    def _pause_s(self, until: float, after_s: float | None, answer: Answer[R] | None, error: Exception | None) -> float:
        """The pause before the next try. Raises :class:`GaveUp` if there is none."""
        settings, clock, tries = self._settings, self._settings.clock, self._tries
        if tries >= settings.policy.tries_max:
            raise GaveUp(self._entry.key, tries, answer, "tries", after_s) from error
        pause_s = settings.policy.pause_s(tries, after_s, clock.random())
        now = clock.now()
        pause_s = max(pause_s, settings.budget.reserve(now))
        if now + pause_s >= until:
            settings.budget.give_back()
            raise GaveUp(self._entry.key, tries, answer, "time", after_s) from error
        return pause_s

    def _end(self, answer: Answer[R]) -> Generator[Store, Any, Answer[R]]:
        self._settings.budget.answered()
        # After a 401 the caller logs in again, and the intent can be resumed. A recorded 401 does not change.
        if answer.status != 401 or answer.replayed:
            yield from self._forget()
        self.tell("answer", status=answer.status, replayed=answer.replayed)
        return answer

    def _fail(self, error: type[IdempotencyError], answer: Answer[R]) -> Generator[Store, Any, NoReturn]:
        # An intent whose outcome is not known stays in the journal.
        if error is not OutcomeUnknown:
            yield from self._forget()
        raise error(self._entry.key, self._tries, answer)

    def _forget(self) -> Generator[Store, Any, None]:
        journal, key = self._settings.journal, self._entry.key
        if journal is not None:
            yield Store(lambda: journal.end(key))

    def tell(
        self,
        kind: Literal["try", "pause", "answer", "error"],
        *,
        status: int | None = None,
        replayed: bool = False,
        why: str | None = None,
        pause_s: float | None = None,
    ) -> None:
        if self._settings.observe is None:
            return
        request = self._entry.request
        event = Event(
            kind=kind, call=self._number, method=request.method, url=_public(request.url), tries=self._tries,
            status=status, replayed=replayed, why=why, pause_s=pause_s,
        )  # fmt: skip
        self._settings.observe(event)


def _public(url: str) -> str:
    """The URL without query, fragment and user."""
    scheme, separator, rest = url.partition("://")
    place = rest.split("?", 1)[0].split("#", 1)[0]
    host, slash, path = place.partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path
