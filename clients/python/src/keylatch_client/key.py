"""Idempotency keys."""

import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from .errors import InvalidKey

KEY_CHARS_MAX = 255
"""The longest key: the limit of Stripe, and of servers that follow the IETF draft."""

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_REGION = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """An idempotency key: 1 to 255 visible ASCII characters. ``repr`` does not show it, because keys do not belong in
    logs.

    Raises :class:`InvalidKey` for anything else.
    """

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > KEY_CHARS_MAX:
            raise InvalidKey(f"the key is longer than {KEY_CHARS_MAX} characters; a UUID has 36")
        if not _VISIBLE_ASCII.fullmatch(self.text):
            raise InvalidKey("a key has 1 to 255 visible ASCII characters, and no spaces")

    @classmethod
    def random(cls) -> "Key":
        """A new key, for a new intent: a UUID of version 7 (RFC 9562, section 5.7)."""
        return cls(_uuid7(time.time_ns() // 1_000_000, os.urandom(10)))

    @classmethod
    def derive(cls, parts: Sequence[str]) -> "Key":
        """The key of an intent that ``parts`` identify: the same in every process, after every restart and in every
        language.

        For example ``Key.derive(["order", user, cart])``. Two different lists never have the same key. Convert numbers
        and dates to text yourself, always in the same way.

        Raises :class:`InvalidKey` if there are no parts, or one is not text.
        """
        if isinstance(parts, str) or not parts:
            raise InvalidKey("a key is derived from a list of one or more texts")
        hasher = sha256(b"keylatch client key 1")
        for part in parts:
            hasher.update(field(_utf8(part)))
        return cls(hasher.hexdigest())

    def in_region(self, region: str) -> "Key":
        """This key in a region: ``REGION.KEY``. A service whose map of regions goes by the prefix of keys decides about
        it there.

        Raises :class:`InvalidKey` if ``region`` is not 1 to 32 lower-case letters, digits and ``-``, or the key becomes
        too long.
        """
        if not _REGION.fullmatch(region):
            raise InvalidKey("the name of a region is 1 to 32 lower-case letters, digits and -, such as eu-1")
        return Key(f"{region}.{self.text}")

    def quoted(self) -> str:
        """The key as a string of RFC 9651, as the draft wants it."""
        return '"' + self.text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def __repr__(self) -> str:
        return f"Key({len(self.text)} characters)"


def field(content: bytes | None) -> bytes:
    """A field of a hash with its length before it, so that no two lists of fields are the same bytes. An absent field
    is not an empty one."""
    return b"\0" if content is None else b"\1" + len(content).to_bytes(8, "big") + content


def _utf8(part: object) -> bytes:
    if not isinstance(part, str):
        raise InvalidKey("a part of a key must be text; convert it yourself, always in the same way")
    try:
        return part.encode()
    except UnicodeEncodeError as error:
        raise InvalidKey("a part of a key has half of a surrogate pair, which has no UTF-8") from error


def _uuid7(unix_ms: int, random: bytes) -> str:
    number = (unix_ms << 80) | int.from_bytes(random, "big")
    # The version and the variant replace six of the random bits.
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=number))
