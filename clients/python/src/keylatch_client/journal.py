"""Durable intents: what was begun and has no final answer yet."""

import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import JournalFull
from .key import Key
from .request import Request

ENTRIES_MAX = 10_000
"""The most entries of a journal. They are unanswered requests, so as many mean that something is wrong."""
ENTRY_BODY_BYTES_MAX = 1 << 20
"""The largest body in a journal: each one is written to disk before it is sent."""

CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers that are never written. When a request is resumed, they come from the session of httpx or requests."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An intent."""

    key: Key
    request: Request
    created_unix_s: float
    """When it was begun, by this machine's clock."""


class Journal(Protocol):
    """Where intents are kept. Clients call it from several threads."""

    def begin(self, entry: Entry) -> Entry:
        """Keeps ``entry``, unless there is one with its key. Returns the entry that is there.

        When it returns, the entry survives the death of the process and of the machine. Raises :class:`JournalFull`.
        """
        ...

    def end(self, key: Key) -> None:
        """Removes the entry of ``key``, if there is one. It may come back after a crash: then it is sent once more, and
        the server answers from its record."""
        ...

    def pending(self) -> Sequence[Entry]:
        """All entries, the oldest first."""
        ...


class SqliteJournal:
    """A journal in a SQLite file, which only this user may read: it contains the bodies of requests. Several processes
    may share it.

    Headers named in :data:`CREDENTIALS` are not written. Give other secrets to the session, and not to the call.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        entries_max: int = ENTRIES_MAX,
        body_bytes_max: int = ENTRY_BODY_BYTES_MAX,
    ) -> None:
        """Opens the file, or creates it. Raises ``sqlite3.Error`` if it cannot, and ``ValueError`` if it has another
        format."""
        self._entries_max = entries_max
        self._body_bytes_max = body_bytes_max
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            self._set_up()
        except BaseException:
            self._db.close()
            raise

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # A commit is on disk before it returns.
        self._db.execute("PRAGMA synchronous = FULL")
        with self._lock, _Writing(self._db):
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.execute(_TABLE)
                self._db.execute("PRAGMA user_version = 1")
            elif version != 1:
                raise ValueError(
                    f"the journal has format {version}, and this version of keylatch-client knows only format 1"
                )

    def begin(self, entry: Entry) -> Entry:
        key, request = entry.key.text, entry.request
        if len(request.body) > self._body_bytes_max:
            raise JournalFull(f"the body is over {self._body_bytes_max} bytes, the largest that the journal keeps")
        headers = {name: value for name, value in request.headers.items() if name not in CREDENTIALS}
        with self._lock, _Writing(self._db):
            row = self._db.execute(_SELECT + " WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return _entry(row)
            (entries,) = self._db.execute("SELECT count(*) FROM intent").fetchone()
            if entries >= self._entries_max:
                raise JournalFull(
                    f"the journal has {entries} entries; resume them, or end those that are of no use any more"
                )
            row = (key, entry.created_unix_s, request.method, request.url, json.dumps(headers), request.body)
            self._db.execute("INSERT INTO intent VALUES (?, ?, ?, ?, ?, ?)", row)
        return entry

    def end(self, key: Key) -> None:
        with self._lock:
            self._db.execute("DELETE FROM intent WHERE key = ?", (key.text,))

    def pending(self) -> Sequence[Entry]:
        with self._lock:
            rows = self._db.execute(_SELECT + " ORDER BY created_unix_s, rowid").fetchall()
        return [_entry(row) for row in rows]

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> "SqliteJournal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_TABLE = """
CREATE TABLE intent (
    key TEXT PRIMARY KEY,
    created_unix_s REAL NOT NULL,
    method TEXT NOT NULL,
    url TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT
"""
_SELECT = "SELECT key, created_unix_s, method, url, headers, body FROM intent"


def _entry(row: tuple[str, float, str, str, str, bytes]) -> Entry:
    key, created_unix_s, method, url, headers, body = row
    return Entry(Key(key), Request(method, url, json.loads(headers), body), created_unix_s)


class _Writing:
    """A transaction that writes, and keeps other processes from writing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, error: object, *_: object) -> None:
        self._db.execute("COMMIT" if error is None else "ROLLBACK")
