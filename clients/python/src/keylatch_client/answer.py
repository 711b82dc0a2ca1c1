"""What a call ends with."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from .key import Key

R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """A final answer of the server: the response of httpx or requests, read to its end."""

    response: R
    status: int
    """The status of the response, which may be one of a failure."""
    replayed: bool
    """Whether the server answered from its record: an earlier try, or an earlier call with this key, has taken
    effect."""
    tries: int
    """How often the request was sent."""
    key: Key
