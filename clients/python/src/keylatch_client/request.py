"""The request that a key is bound to."""

import json as encoder
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from .key import field

BODY_BYTES_MAX = 64 << 20
"""The largest body. It is in memory until the call ends, so that each try sends the same bytes."""

_FOREIGN = {"idempotency-key": "key", "prefer": "Policy.prefer_wait_s", "content-length": "the length of the body"}


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A request with its body as bytes, which each try sends unchanged. ``headers`` are those of the call, in lower
    case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(
        cls,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | str | None = None,
        json: object = None,
    ) -> "Request":
        """A request with ``content``, or with ``json`` as its body. Raises ``ValueError`` if something cannot be
        sent."""
        fields = {name.lower(): value for name, value in (headers or {}).items()}
        for name, instead in _FOREIGN.items():
            if name in fields:
                raise ValueError(f"the header {name} is set by the client, from {instead}")
        if json is not None:
            if content is not None:
                raise ValueError("a request has content or json, not both")
            content = encoder.dumps(json, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            fields.setdefault("content-type", "application/json")
        body = content.encode() if isinstance(content, str) else bytes(content or b"")
        if len(body) > BODY_BYTES_MAX:
            raise ValueError(f"the body is over {BODY_BYTES_MAX} bytes")
        return cls(method.upper(), url, fields, body)

    def fingerprint(self) -> bytes:
        """32 bytes that identify the request: its method, URL, content type, content encoding and body."""
        fields = [self.method, self.url, self.headers.get("content-type"), self.headers.get("content-encoding")]
        hasher = sha256(b"keylatch fingerprint 1")
        for text in fields:
            hasher.update(field(None if text is None else text.encode()))
        hasher.update(field(self.body))
        return hasher.digest()

    def __repr__(self) -> str:
        return f"Request({self.method}, {len(self.body)} bytes)"
