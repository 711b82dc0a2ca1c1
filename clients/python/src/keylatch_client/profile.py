"""What a server's answers mean.

:data:`DRAFT` is for Keylatch, and for any server that follows draft-ietf-httpapi-idempotency-key-header. :data:`STRIPE`
is for Stripe. Both are tried with ``clients/cases/answers.json``.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from .key import Key


class Meaning(StrEnum):
    """What an answer means for the call."""

    ANSWER = "answer"
    """It is final."""
    RETRY = "retry"
    """It says nothing about the outcome, and the same request may be sent again."""
    IN_PROGRESS = "in_progress"
    """The request is running now."""
    KEY_REUSED = "key_reused"
    OUTCOME_UNKNOWN = "outcome_unknown"
    NOT_RETAINED = "not_retained"
    EXPIRED = "expired"


@dataclass(slots=True)
class Reply:
    """An answer, without the library that read it. ``headers`` find a name in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_replay(self) -> bool:
        """Whether it comes from the server's record."""
        return self.headers.get("idempotent-replayed") == "true"

    def members(self) -> Mapping[str, Any]:
        """The members of a JSON object; none if the body is anything else."""
        if "json" not in self.headers.get("content-type", "").lower():
            return {}
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def after_s(self, unix_s: float) -> float | None:
        """What ``Retry-After`` asks for, in seconds. ``unix_s`` is the time now, for an answer without a ``Date``."""
        value = self.headers.get("retry-after", "")
        if re.fullmatch("[0-9]+", value):
            return min(float(value), AFTER_S_MAX)
        then = _date(value)
        if then is None:
            return None
        # The server's clock, and not this machine's, because the date is of the server.
        now = _date(self.headers.get("date", ""))
        return max(0.0, then - (unix_s if now is None else now))


AFTER_S_MAX = 1e9
"""No call waits so long, and all languages can count to it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules of a kind of server."""

    name: str
    meaning: Callable[[Reply], Meaning]
    """What an answer means."""
    header: Callable[[Key], str]
    """How a key is written in ``Idempotency-Key``."""
    key_s_max: float
    """How long after the first try a request may be sent again, in seconds. Later, the server may have forgotten its
    key and would run it again."""


_CODES = {
    "IDEMPOTENCY_KEY_IN_PROGRESS": Meaning.IN_PROGRESS,
    "IDEMPOTENCY_KEY_REUSED": Meaning.KEY_REUSED,
    "IDEMPOTENCY_OUTCOME_UNKNOWN": Meaning.OUTCOME_UNKNOWN,
    "IDEMPOTENCY_RESPONSE_NOT_RETAINED": Meaning.NOT_RETAINED,
    "IDEMPOTENCY_KEY_EXPIRED": Meaning.EXPIRED,
}
# The gateway sent the request on, and never heard what became of it.
_UNHEARD = ("UPSTREAM_FAILED", "UPSTREAM_TIMEOUT")
# The draft has statuses and no codes. An application uses the same statuses for its own reasons, so the problem has to
# be about the key.
_ABOUT_KEY = {409: Meaning.IN_PROGRESS, 410: Meaning.EXPIRED, 422: Meaning.KEY_REUSED}
_RETRY = frozenset({408, 425, 429, 502, 503, 504})


def _draft(reply: Reply) -> Meaning:
    # What is recorded does not change, whatever its status.
    if reply.status < 400 or reply.is_replay:
        return Meaning.ANSWER
    problem = reply.members()
    code, retryable = problem.get("code"), problem.get("retryable")
    if isinstance(code, str):
        if code in _CODES:
            return _CODES[code]
        if code in _UNHEARD and retryable is False:
            return Meaning.OUTCOME_UNKNOWN
        if isinstance(retryable, bool):
            return Meaning.RETRY if retryable else Meaning.ANSWER
    if reply.status in _ABOUT_KEY and _is_about_key(problem):
        return _ABOUT_KEY[reply.status]
    if reply.status == 409 and "retry-after" in reply.headers:
        return Meaning.IN_PROGRESS
    return Meaning.RETRY if reply.status in _RETRY else Meaning.ANSWER


def _is_about_key(problem: Mapping[str, Any]) -> bool:
    texts = (problem.get(name) for name in ("type", "title"))
    return any(isinstance(text, str) and "idempotency" in text.lower() for text in texts)


def _stripe(reply: Reply) -> Meaning:
    if reply.status < 400 or reply.is_replay:
        return Meaning.ANSWER
    error = reply.members().get("error")
    if reply.status == 400 and isinstance(error, dict) and error.get("type") == "idempotency_error":
        return Meaning.KEY_REUSED
    again = Meaning.IN_PROGRESS if reply.status == 409 else Meaning.RETRY
    match reply.headers.get("stripe-should-retry"):
        case "true":
            return again
        case "false":
            return Meaning.ANSWER
    may_be_sent_again = reply.status in _RETRY or reply.status in (409, 500)
    return again if may_be_sent_again else Meaning.ANSWER


_IMF_FIXDATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


def _date(value: str) -> float | None:
    if not _IMF_FIXDATE.fullmatch(value):
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None


_DAY_S = 24 * 60 * 60

DRAFT = Profile(name="draft", meaning=_draft, header=Key.quoted, key_s_max=_DAY_S)
"""Keylatch, and servers that follow the IETF draft. They keep answers for 24 hours or longer, if not told otherwise."""

STRIPE = Profile(name="stripe", meaning=_stripe, header=lambda key: key.text, key_s_max=_DAY_S)
"""Stripe, which forgets keys after 24 hours."""
