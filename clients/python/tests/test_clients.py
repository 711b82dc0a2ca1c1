"""What a table of answers cannot show: keys and their requests, the journal, cancelling, events."""

import asyncio
import contextlib
import logging
import sqlite3
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
from keylatch_client import (
    STRIPE,
    Entry,
    Event,
    GaveUp,
    JournalFull,
    Key,
    KeyExpired,
    KeyReused,
    OutcomeUnknown,
    Policy,
    Request,
    SqliteJournal,
)
from keylatch_client.httpx import AsyncClient, Client
from support import KINDS, SOON_S, Either, Fake, Server, serving

UNKNOWN = {
    "status": 409,
    "headers": {"content-type": "application/problem+json"},
    "body": {"code": "IDEMPOTENCY_OUTCOME_UNKNOWN", "retryable": False},
}
FAST = Policy(tries_max=2)


class Bound(unittest.TestCase):
    def test_a_key_belongs_to_one_request(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind) as (client, server):
                key, url = Key("a-key"), server.url + "/orders"
                client.post(url, json={"a": 1}, key=key)
                others: list[tuple[str, str, dict[str, Any]]] = [
                    ("POST", url, {"json": {"a": 2}}),
                    ("PATCH", url, {"json": {"a": 1}}),
                    ("POST", url + "?x", {"json": {"a": 1}}),
                    ("POST", url, {"json": {"a": 1}, "headers": {"Content-Type": "text/plain"}}),
                ]
                for method, at, given in others:
                    with self.assertRaises(KeyReused) as raised:
                        client.request(method, at, key=key, **given)
                    self.assertIsNone(raised.exception.answer)
                self.assertEqual(len(server.seen), 1)
                client.post(url, json={"a": 1}, key=key)
                self.assertEqual(len(server.seen), 2)

    def test_urls_are_those_that_the_library_sends(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind) as (client, server):
                # Two spellings of a request are one request.
                for url in ("/a b?c=d", "/a%20b?c=d"):
                    client.post(server.url + url, key=Key("a-key"))
                self.assertEqual([path for _, path, *_ in server.seen], ["/a%20b?c=d"] * 2)

    def test_urls_may_be_relative_to_that_of_the_session(self) -> None:
        with serving("httpx") as (_, server):
            for base, url, path in (
                ("", "/orders", "/orders"),
                ("/api", "/orders", "/api/orders"),
                ("/api/", "?x=1", "/api/?x=1"),
            ):
                with Client(httpx.Client(base_url=server.url + base, trust_env=False)) as client:
                    client.post(url)
                with httpx.Client(base_url=server.url + base, trust_env=False) as bare:
                    bare.post(url)
                self.assertEqual([path for _, path, *_ in server.seen[-2:]], [path] * 2)

    def test_an_error_does_not_show_the_key(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind, policy=FAST, clock=Fake()) as (client, server):
                server.script = ["lost", "lost"]
                with self.assertRaises(GaveUp) as raised:
                    client.post(server.url, json={"card": 4242}, key=Key("a-secret"))
                self.assertEqual(raised.exception.key, Key("a-secret"))
                self.assertIsNotNone(raised.exception.__cause__)
                self.assertNotIn("secret", str(raised.exception) + repr(raised.exception))
                self.assertNotIn("4242", repr(Request.of("POST", "/", json={"card": 4242})))

    def test_what_the_client_sets_cannot_be_given(self) -> None:
        for name in ("Idempotency-Key", "Prefer", "Content-Length"):
            with self.assertRaises(ValueError):
                Request.of("POST", "/", headers={name: "x"})
        with self.assertRaises(ValueError):
            Request.of("POST", "/", json=1, content=b"1")
        with self.assertRaises(ValueError):
            Request.of("POST", "/", json=float("nan"))

    def test_the_server_is_asked_to_wait(self) -> None:
        for wait_s, header in ((5, "wait=5"), (90, "wait=15"), (0, None)):
            with self.subTest(wait_s), serving("httpx", policy=Policy(prefer_wait_s=wait_s)) as (client, server):
                client.post(server.url)
                self.assertEqual(server.seen[0][2].get("prefer"), header)

    def test_a_policy_that_cannot_be_kept_is_an_error(self) -> None:
        for wrong in ({"tries_max": 0}, {"try_s_max": 0}, {"pause_s_max": -1}, {"retries_per_s": float("nan")}):
            with self.subTest(wrong), self.assertRaises(ValueError):
                Policy(**wrong)
        with self.assertRaises(ValueError):
            Client(policy=Policy(time_s_max=24 * 60 * 60))

    def test_a_pause_that_takes_too_long_leaves_a_try(self) -> None:
        class Late(Fake):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds + 60)

        for kind in KINDS:
            with self.subTest(kind), serving(kind, policy=Policy(time_s_max=10), clock=Late()) as (client, server):
                server.script = ["lost", "silent"]
                with self.assertRaises(GaveUp) as raised:
                    client.post(server.url)
                self.assertEqual((raised.exception.tries, raised.exception.why), (2, "time"))


class Journals(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name, "intents.db")

    def open(self, **limits: Any) -> SqliteJournal:
        journal = SqliteJournal(self.path, **limits)
        self.addCleanup(journal.close)
        return journal

    def entry(self, key: str, body: bytes = b"1") -> Entry:
        return Entry(Key(key), Request("POST", "http://shop.example/", {}, body), 1.0)

    def test_an_intent_is_durable_before_the_first_try_and_goes_with_the_answer(self) -> None:
        for kind in KINDS:
            journal = self.open()
            with self.subTest(kind), serving(kind, journal=journal) as (client, server):
                # As another process sees it, while the server has the request.
                rows: list[Any] = []
                server.reached = lambda rows=rows: rows.extend(
                    sqlite3.connect(self.path).execute("SELECT key, method, url, body FROM intent")
                )
                client.post(server.url + "/orders", json={"a": 1}, key=Key("a-key"))
                self.assertEqual(rows, [("a-key", "POST", server.url + "/orders", b'{"a":1}')])
                self.assertEqual(journal.pending(), [])

    def test_what_has_no_answer_is_finished_by_the_next_client(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind, journal=self.open(), policy=FAST, clock=Fake()) as (client, server):
                server.script = ["lost", "lost", UNKNOWN, "lost", "lost"]
                for key, error in (("lost", GaveUp), ("unknown", OutcomeUnknown), ("lost again", None)):
                    if error:
                        with self.assertRaises(error):
                            client.post(server.url, json={"key": key}, key=Key(key))
                before = server.seen[:]
                server.script = [{"status": 201, "headers": {"idempotent-replayed": "true"}}, UNKNOWN]
                next_client = Either(kind, journal=self.open(), policy=FAST, clock=Fake())
                self.addCleanup(next_client.close)
                first, second = next_client.resume()
                assert first.answer and second.error
                self.assertTrue(first.answer.replayed)
                self.assertIsInstance(second.error, OutcomeUnknown)
                # With the same key, headers and bytes.
                for (*_, headers, body), (*_, again, body_again) in zip(before[1:3], server.seen[3:], strict=True):
                    self.assertEqual((headers["idempotency-key"], body), (again["idempotency-key"], body_again))
                    self.assertEqual(headers["content-type"], again["content-type"])
                # What is not known stays, until it is.
                (third,) = next_client.resume()
                assert third.answer
                self.assertEqual(next_client.resume(), [])

    def test_a_key_of_the_journal_belongs_to_its_request(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind, journal=self.open()) as (client, server):
                self.open().begin(self.entry("a-key"))
                with self.assertRaises(KeyReused):
                    client.post(server.url, json={"a": 2}, key=Key("a-key"))
                self.assertEqual(server.seen, [])
                self.open().end(Key("a-key"))

    def test_an_old_intent_is_not_sent_because_the_server_may_have_forgotten_it(self) -> None:
        for kind in KINDS:
            clock = Fake()
            with self.subTest(kind), serving(kind, journal=self.open(), policy=FAST, clock=clock, profile=STRIPE) as at:
                client, server = at
                server.script = ["lost", "lost"]
                with self.assertRaises(GaveUp):
                    client.post(server.url, key=Key("a-key"))
                clock.unix += 24 * 60 * 60
                for _ in range(2):
                    (resumed,) = client.resume()
                    self.assertIsInstance(resumed.error, KeyExpired)
                    self.assertIn("journal.end", str(resumed.error))
                self.assertEqual(len(server.seen), 2)
                self.open().end(Key("a-key"))
                self.assertEqual(client.resume(), [])

    def test_credentials_are_not_written_and_come_from_the_session(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind, journal=self.open(), policy=FAST, clock=Fake()) as (client, server):
                server.script = ["lost", "lost"]
                secret = {"Authorization": "Bearer first-token", "X-User-Id": "alice"}
                with self.assertRaises(GaveUp):
                    client.post(server.url, key=Key("a-key"), headers=secret)
                self.assertEqual(server.seen[1][2]["authorization"], "Bearer first-token")
                for file in self.path.parent.iterdir():
                    self.assertNotIn(b"first-token", file.read_bytes())
                session = {"Authorization": "Bearer second-token"}
                later = Either(kind, session, journal=self.open(), clock=Fake())
                self.addCleanup(later.close)
                later.resume()
                self.assertEqual(server.seen[2][2]["authorization"], "Bearer second-token")
                self.assertEqual(server.seen[2][2]["x-user-id"], "alice")

    def test_only_this_user_may_read_it(self) -> None:
        self.open().begin(self.entry("a-key"))
        for file in self.path.parent.iterdir():
            self.assertEqual(file.stat().st_mode & 0o777, 0o600, file)

    def test_it_is_bounded(self) -> None:
        journal = self.open(entries_max=2, body_bytes_max=10)
        for key in ("a", "b", "a"):
            journal.begin(self.entry(key))
        for entry in (self.entry("c"), self.entry("d", b"x" * 11)):
            with self.assertRaises(JournalFull):
                journal.begin(entry)
        journal.end(Key("a"))
        journal.begin(self.entry("c"))
        self.assertEqual([entry.key.text for entry in journal.pending()], ["b", "c"])

    def test_a_full_journal_sends_nothing(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind, journal=self.open(body_bytes_max=1)) as (client, server):
                with self.assertRaises(JournalFull):
                    client.post(server.url, content=b"12")
                self.assertEqual(server.seen, [])

    def test_another_format_is_an_error(self) -> None:
        self.open()
        sqlite3.connect(self.path).execute("PRAGMA user_version = 2")
        with self.assertRaisesRegex(ValueError, "format 2"):
            SqliteJournal(self.path)

    def test_many_threads_and_clients_share_it(self) -> None:
        first, second = self.open(), self.open()

        def work(journal: SqliteJournal, name: str) -> None:
            for number in range(20):
                journal.begin(self.entry(f"{name}-{number}"))
                if number % 2:
                    journal.end(Key(f"{name}-{number}"))

        threads = [
            threading.Thread(target=work, args=(journal, f"{n}")) for n, journal in enumerate([first, second] * 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(first.pending()), 4 * 10)

    def test_a_client_does_not_resume_what_it_is_about_to_finish(self) -> None:
        server = Server()
        self.addCleanup(server.close)
        client = Either("httpx", journal=self.open())
        self.addCleanup(client.close)
        resumed: list[Any] = []
        server.reached = lambda: resumed.extend(client.resume())
        client.post(server.url)
        self.assertEqual((resumed, len(server.seen)), ([], 1))

    def test_without_a_journal_there_is_nothing_to_resume(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind) as (client, _), self.assertRaises(ValueError):
                client.resume()


class Cancelling(unittest.TestCase):
    def test_a_cancelled_call_stops_and_its_intent_stays(self) -> None:
        for waits in ("for the answer", "in a pause"):
            with self.subTest(waits), tempfile.TemporaryDirectory() as directory:
                asyncio.run(self.cancel(waits, Path(directory, "intents.db")))

    async def cancel(self, waits: str, path: Path) -> None:
        server, events = Server(), list[Event]()
        slow = {"status": 503, "headers": {"retry-after": "60"}}
        server.script = ["silent" if waits == "for the answer" else slow]
        with SqliteJournal(path) as journal:
            async with AsyncClient(
                httpx.AsyncClient(trust_env=False), journal=journal, observe=events.append
            ) as client:
                call = asyncio.create_task(client.post(server.url, key=Key("a-key")))
                async with asyncio.timeout(SOON_S):
                    last = "try" if waits == "for the answer" else "pause"
                    while not (server.seen and events and events[-1].kind == last):
                        await asyncio.sleep(0.001)
                    call.cancel()
                    with self.assertRaises(asyncio.CancelledError):
                        await call
                    self.assertEqual((events[-1].kind, events[-1].why), ("error", "stopped"))
                    # It can be finished afterwards.
                    server.close()
                    server = Server()
                    [entry] = journal.pending()
                    self.assertEqual(entry.key, Key("a-key"))
        server.close()


class Events(unittest.TestCase):
    def test_an_observer_sees_each_step_and_no_secret(self) -> None:
        for kind in KINDS:
            events: list[Event] = []
            with self.subTest(kind), serving(kind, clock=Fake(0.5), observe=events.append) as (client, server):
                server.script = ["lost", {"status": 503, "headers": {}}]
                url = server.url.replace("//", "//user:password@") + "/orders"
                client.post(url + "?token=secret", key=Key("a-secret"))
                server.script = [UNKNOWN]
                with self.assertRaises(OutcomeUnknown):
                    client.post(url)
            steps = [(event.call, event.kind, event.tries, event.status, event.why) for event in events]
            expected = [
                (1, "try", 1, None, None),
                (1, "pause", 1, None, "lost"),
                (1, "try", 2, None, None),
                (1, "pause", 2, 503, "retry"),
                (1, "try", 3, None, None),
                (1, "answer", 3, 201, None),
                (2, "try", 1, None, None),
                (2, "error", 1, None, "outcome_unknown"),
            ]
            self.assertEqual(steps, expected)
            self.assertEqual([event.pause_s for event in events if event.kind == "pause"], [0.05, 0.1])
            self.assertEqual({event.url for event in events}, {server.url + "/orders"})
            self.assertNotIn("secret", repr(events))

    def test_nothing_is_logged_by_the_package(self) -> None:
        with self.assertNoLogs("keylatch_client", logging.DEBUG), serving("httpx") as (client, server):
            client.post(server.url)


class OneClient(unittest.TestCase):
    def test_retries_of_all_calls_share_a_budget(self) -> None:
        policy = Policy(tries_max=2, retries_burst_max=3, retries_per_s=1, retries_per_answer=0)
        for kind in KINDS:
            clock = Fake(0)
            with self.subTest(kind), serving(kind, policy=policy, clock=clock) as (client, server):
                for _ in range(5):
                    server.script = ["lost", "lost"]
                    with self.assertRaises(GaveUp):
                        client.post(server.url)
            self.assertEqual(clock.pauses, [0, 0, 0, 1, 1])

    def test_an_answer_and_a_retry_that_is_not_sent_fill_the_budget(self) -> None:
        late = {"status": 503, "headers": {"retry-after": "60"}}
        for per_answer, script in ((1, ["lost"]), (0, [late])):
            policy = Policy(time_s_max=10, retries_burst_max=1, retries_per_s=1, retries_per_answer=per_answer)
            for kind in KINDS:
                clock = Fake(0)
                with self.subTest(kind, script=script), serving(kind, policy=policy, clock=clock) as (client, server):
                    server.script = list(script)
                    with contextlib.suppress(GaveUp):
                        client.post(server.url)
                    server.script = ["lost"]
                    client.post(server.url)
                    self.assertEqual(set(clock.pauses), {0})

    def test_a_redirect_is_an_answer_even_if_the_session_follows(self) -> None:
        for kind in KINDS:
            with self.subTest(kind), serving(kind) as (client, server):
                if kind != "requests":
                    client.inner._session.follow_redirects = True
                server.script = [{"status": 307, "headers": {"location": "/elsewhere"}}]
                self.assertEqual(client.post(server.url).status, 307)
                self.assertEqual(len(server.seen), 1)

    def test_it_remembers_only_so_many_keys(self) -> None:
        with mock.patch("keylatch_client._client.KEYS_BOUND_MAX", 2), serving("httpx") as (client, server):
            for key in ("a", "b", "c"):
                client.post(server.url, json=key, key=Key(key))
            self.assertEqual(list(client.inner._bound), ["b", "c"])
            self.assertEqual(client.inner._running, {})


if __name__ == "__main__":
    unittest.main()
