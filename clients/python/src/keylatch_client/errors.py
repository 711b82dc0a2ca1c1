"""How a call can fail. Each error says what to do; none is a reason to use a new key for the same intent."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from .answer import Answer
    from .key import Key


class InvalidKey(ValueError):
    """The text cannot be a key, or the parts cannot be made into one."""


class JournalFull(RuntimeError):
    """The journal has as many entries as it may have, or the request is too large for it. Nothing was sent."""


class IdempotencyError(Exception):
    """A call that ended without a final answer."""

    name: ClassVar[str] = ""
    """The name of the error in all clients."""
    advice: ClassVar[str] = ""

    def __init__(self, key: "Key", tries: int, answer: "Answer[Any] | None" = None, advice: str | None = None) -> None:
        super().__init__(advice or self.advice)
        self.key = key
        """The key of the call. Do not log it."""
        self.tries = tries
        """How often the request was sent."""
        self.answer = answer
        """The answer to the last try, if there was one."""


class KeyReused(IdempotencyError):
    """The key belongs to another request; this one did not run. Without ``answer``, nothing was sent."""

    name = "key_reused"
    advice = (
        "the key belongs to another request, and this one did not run: use a new key for a new intent, and send the "
        "same bytes for the same one"
    )


class OutcomeUnknown(IdempotencyError):
    """A try ended half-way, and the server does not run the request again until somebody has found out what
    happened."""

    name = "outcome_unknown"
    advice = (
        "the request may have taken effect, or not: ask the service for its state; do not use a new key; the same "
        "request with the same key gets the answer once the outcome is known"
    )


class ResponseNotRetained(IdempotencyError):
    """The request took effect, and its answer was not kept."""

    name = "not_retained"
    advice = (
        "the request took effect, and its answer was not kept: read the result from the service; do not use a new key"
    )


class KeyExpired(IdempotencyError):
    """The key is older than servers keep keys. Without ``answer``, nothing was sent."""

    name = "expired"
    advice = "the request took effect, longer ago than answers are kept: read the result from the service"
    advice_unsent = (
        "the request was begun longer ago than servers keep keys, so nothing was sent: find out from the service "
        "whether it took effect, then remove it from the journal with journal.end(error.key)"
    )


class GaveUp(IdempotencyError):
    """The limit of tries or time was reached. ``__cause__`` is the exception of the last try, if it had no answer."""

    name = "gave_up"
    advice = (
        "no final answer within the limits of the policy; the request may have taken effect: send it again later, with "
        "the same key and the same bytes"
    )

    def __init__(
        self, key: "Key", tries: int, answer: "Answer[Any] | None", why: Literal["tries", "time"], after_s: float | None
    ) -> None:
        super().__init__(key, tries, answer)
        self.why = why
        """Which limit of the policy it was."""
        self.after_s = after_s
        """What ``Retry-After`` of the last answer asks for, in seconds."""
