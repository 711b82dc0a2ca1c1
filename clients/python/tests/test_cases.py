"""The cases that all clients run: see ``clients/cases``."""

import contextlib
import tempfile
import unittest
from dataclasses import fields
from pathlib import Path
from typing import Any

from keylatch_client import DRAFT, STRIPE, IdempotencyError, InvalidKey, Key, Policy, Request, SqliteJournal
from keylatch_client.key import _uuid7
from keylatch_client.policy import RetryBudget
from keylatch_client.profile import Reply
from support import KINDS, Fake, cases, serving

PROFILES = {"draft": DRAFT, "stripe": STRIPE}


def body_of(case: dict[str, Any]) -> bytes:
    import json

    body = case.get("body", "")
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


class Keys(unittest.TestCase):
    def test_derived(self) -> None:
        for case in cases("keys.json", "derived"):
            with self.subTest(case["name"]):
                self.assertEqual(Key.derive(case["parts"]).text, case["key"])

    def test_no_two_lists_meet(self) -> None:
        keys = [case["key"] for case in cases("keys.json", "derived")]
        self.assertEqual(len(keys), len(set(keys)))

    def test_derived_refused(self) -> None:
        for case in cases("keys.json", "derived_refused"):
            with self.subTest(case["name"]), self.assertRaises(InvalidKey):
                Key.derive(case["parts"])

    def test_a_text_is_not_a_list_of_parts(self) -> None:
        with self.assertRaises(InvalidKey):
            Key.derive("order")

    def test_random(self) -> None:
        for case in cases("keys.json", "random"):
            with self.subTest(case["name"]):
                self.assertEqual(_uuid7(case["unix_ms"], bytes.fromhex(case["random"])), case["key"])
        self.assertNotEqual(Key.random(), Key.random())

    def test_in_region(self) -> None:
        for case in cases("keys.json", "in_region"):
            with self.subTest(case["name"]):
                self.assertEqual(Key(case["key"]).in_region(case["region"]).text, case["in_region"])
        for case in cases("keys.json", "in_region_refused"):
            with self.subTest(case["name"]), self.assertRaises(InvalidKey):
                Key(case["key"]).in_region(case["region"])

    def test_headers(self) -> None:
        for case in cases("keys.json", "headers"):
            for name, profile in PROFILES.items():
                with self.subTest(case["name"], profile=name):
                    self.assertEqual(profile.header(Key(case["key"])), case[name])

    def test_refused(self) -> None:
        for case in cases("keys.json", "refused"):
            with self.subTest(case["name"]), self.assertRaises(InvalidKey):
                Key(case["key"])


class Requests(unittest.TestCase):
    def test_fingerprints(self) -> None:
        seen = set()
        for case in cases("requests.json", "fingerprints"):
            with self.subTest(case["name"]):
                names = ("content_type", "content_encoding")
                headers = {name.replace("_", "-"): case[name] for name in names if case[name] is not None}
                request = Request.of(case["method"], case["url"], headers=headers, content=bytes.fromhex(case["body"]))
                self.assertEqual(request.fingerprint().hex(), case["fingerprint"])
                self.assertNotIn(case["fingerprint"], seen)
                seen.add(case["fingerprint"])


class Answers(unittest.TestCase):
    def test_answers(self) -> None:
        for case in cases("answers.json", "answers"):
            with self.subTest(case["name"]):
                reply = Reply(case["status"], case["headers"], body_of(case))
                self.assertEqual(PROFILES[case["profile"]].meaning(reply), case["means"])
                self.assertEqual(reply.is_replay, case.get("replayed", False))
                self.assertEqual(reply.after_s(case.get("unix_s", 0)), case.get("after_s"))


class Budgets(unittest.TestCase):
    def test_budgets(self) -> None:
        for case in cases("budget.json", "budgets"):
            with self.subTest(case["name"]):
                budget = RetryBudget(Policy(**case["policy"]), 0)
                for at, what, *waits in case["events"]:
                    if what == "retry":
                        self.assertAlmostEqual(budget.reserve(at), waits[0])
                    elif what == "answered":
                        budget.answered()
                    else:
                        self.assertEqual(what, "returned")
                        budget.give_back()


class Calls(unittest.TestCase):
    def test_the_defaults_are_those_of_the_table(self) -> None:
        text = (cases.__globals__["CASES"] / "README.md").read_text()
        for field in fields(Policy):
            self.assertIn(f"| `{field.name}` | {field.default} |", text)

    def test_calls(self) -> None:
        for kind in KINDS:
            for case in cases("calls.json", "calls"):
                with self.subTest(case["name"], kind=kind):
                    self.check(kind, case)

    def test_journal(self) -> None:
        for kind in KINDS:
            for case in cases("calls.json", "journal"):
                with self.subTest(case["name"], kind=kind), tempfile.TemporaryDirectory() as directory:
                    with SqliteJournal(Path(directory, "intents.db")) as journal:
                        with serving(kind, journal=journal, policy=Policy(tries_max=1)) as (client, server):
                            server.script = [case["server"]]
                            with contextlib.suppress(IdempotencyError):
                                client.post(server.url, key=Key("a-key"))
                        self.assertEqual(len(journal.pending()), int(case["kept"]))

    def check(self, kind: str, case: dict[str, Any]) -> None:
        clock = Fake(case["random"])
        settings = {"profile": PROFILES[case["profile"]], "policy": Policy(**case["policy"]), "clock": clock}
        key, ends = Key("a-key"), case["ends"]
        with serving(kind, **settings) as (client, server):
            server.script = list(case["server"])
            try:
                answer = client.post(server.url + "/api/orders", json={"a": 1}, key=key)
                found = {"answer": answer.status, "tries": answer.tries, "replayed": answer.replayed}
                self.assertEqual(answer.response.status_code, answer.status)
            except IdempotencyError as error:
                found = {"error": error.name, "tries": error.tries, "status": error.answer and error.answer.status}
                if why := getattr(error, "why", None):
                    found["why"] = why
        self.assertEqual(found, ends)
        self.assertEqual(len(clock.pauses), len(case["pauses"]), clock.pauses)
        for pause, expected in zip(clock.pauses, case["pauses"], strict=True):
            self.assertAlmostEqual(pause, expected)
        # Each try sends the same bytes under the same key.
        self.assertEqual(len(server.seen), ends["tries"])
        header = PROFILES[case["profile"]].header(key)
        for method, path, headers, body in server.seen:
            self.assertEqual((method, path, body), ("POST", "/api/orders", b'{"a":1}'))
            self.assertEqual(headers["idempotency-key"], header)
            self.assertEqual(headers["content-type"], "application/json")


if __name__ == "__main__":
    unittest.main()
