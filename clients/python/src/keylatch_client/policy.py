"""Limits and pauses."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The limits of each call, and of the retries of all calls of a client together.

    Raises ``ValueError`` if they cannot be kept.
    """

    tries_max: int = 10
    """How often a call sends its request. The default pauses of ten tries are 33 seconds at most."""
    time_s_max: float = 120
    """How long a call takes, with all its tries and pauses. Longer than a restart or a failover of most services."""
    try_s_max: float = 30
    """How long a try waits for the server. The synchronous clients count from the last byte that arrived."""
    pause_s_base: float = 0.1
    """The pause before the second try is random, up to this. The limit doubles with each try."""
    pause_s_max: float = 10
    """The longest random pause. What ``Retry-After`` asks for comes on top."""
    prefer_wait_s: int = 5
    """How long the server should wait for a run of the same key instead of answering 409: ``Prefer: wait=N``. 0 is
    never."""
    retries_burst_max: int = 100
    """How many retries of all calls may go out at once."""
    retries_per_s: float = 10
    """How fast further retries go out: in an outage this is all that the client adds to the load."""
    retries_per_answer: float = 0.2
    """How many further retries each final answer allows: while most calls succeed, few failures need not wait."""

    def __post_init__(self) -> None:
        if self.tries_max < 1:
            raise ValueError("tries_max must be 1 or more")
        for name in ("time_s_max", "try_s_max", "retries_burst_max", "retries_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0")
        for name in ("pause_s_base", "pause_s_max", "prefer_wait_s", "retries_per_answer"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative")

    def pause_s(self, tries: int, after_s: float | None, random: float) -> float:
        """The pause after so many tries: exponential backoff with full jitter, after the time that the server asks
        for."""
        # The exponent has a limit, because a float has one.
        backoff = min(self.pause_s_max, self.pause_s_base * 2.0 ** min(tries - 1, 60))
        return (after_s or 0) + random * backoff

    def wait_s(self) -> int:
        """What ``Prefer: wait`` asks for: never so long that the try would time out first."""
        return min(self.prefer_wait_s, int(self.try_s_max / 2))


class RetryBudget:
    """Spreads the retries of all calls of a client, so that an outage is not made worse. Safe to use from several
    threads.

    It is a bucket of permits that time and final answers fill. A retry that finds none reserves one that is to come.
    """

    def __init__(self, policy: Policy, now: float) -> None:
        self._max = float(policy.retries_burst_max)
        self._per_s = policy.retries_per_s
        self._per_answer = policy.retries_per_answer
        self._permits = self._max
        self._at = now
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Takes a permit. Returns how many seconds to wait until it is valid."""
        with self._lock:
            self._add((now - self._at) * self._per_s)
            self._at = now
            self._permits -= 1
            return max(0.0, -self._permits / self._per_s)

    def give_back(self) -> None:
        """Returns a permit that was not used."""
        with self._lock:
            self._add(1)

    def answered(self) -> None:
        """Notes a final answer."""
        with self._lock:
            self._add(self._per_answer)

    def _add(self, permits: float) -> None:
        self._permits = min(self._max, self._permits + permits)
