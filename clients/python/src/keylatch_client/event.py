"""What a client tells its observer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A step of a call, for logs, metrics and spans. It contains no key, header, query or body.

    A call begins with ``try`` and ends with ``answer`` or ``error``; in between, each ``pause`` is followed by a
    ``try``. A call that ends in another way (cancelled, or with an error of the journal) ends with ``error`` and
    ``why="stopped"``.
    """

    kind: Literal["try", "pause", "answer", "error"]
    call: int
    """The same number for all events of a call."""
    method: str
    url: str
    """The URL without its query and user."""
    tries: int
    """How often the request was sent, including a try that begins now."""
    status: int | None = None
    replayed: bool = False
    why: str | None = None
    """Of a pause: what the try met (``lost``, ``silent``, ``retry``, ``in_progress``). Of an error: its name."""
    pause_s: float | None = None
