"""Orders from the API, several at a time, and tells each step in a line of JSON. If there is a journal, it finishes
what that has first.

``orders.py LIBRARY``: httpx, httpx-async or requests.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import requests

import keylatch_client.httpx
import keylatch_client.requests
from keylatch_client import Answer, Key, Policy, Resumed, SqliteJournal

URL = os.environ["URL"] + "/api/orders"
IN_FLIGHT = int(os.environ["IN_FLIGHT"])
USERS = int(os.environ["USERS"])
NUMBERS = range(int(os.environ["FIRST"]), int(os.environ["ORDERS"]))

# The tests are impatient: a try that hears nothing is given up soon, and retries are not spread.
POLICY = Policy(tries_max=100, try_s_max=3, time_s_max=250, pause_s_max=0.5, prefer_wait_s=1, retries_per_s=1000)
JOURNAL = SqliteJournal(os.environ["JOURNAL"]) if "JOURNAL" in os.environ else None


def tell(**line: object) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def told(answer: Answer[Any]) -> None:
    assert answer.status == 201, answer.response.text
    order = answer.response.json()
    tell(
        cart_id=order["cart_id"], order_id=order["order_id"], status=answer.status, tries=answer.tries,
        replayed=answer.replayed,
    )  # fmt: skip


def resuming() -> None:
    for entry in JOURNAL.pending() if JOURNAL else ():
        tell(resuming=json.loads(entry.request.body)["cart_id"])


def resumed(each: Resumed[Any]) -> None:
    if each.error:
        raise each.error
    assert each.answer
    told(each.answer)


def order(number: int) -> tuple[Key, dict[str, object]]:
    tell(begun=number)
    user, cart = f"user-{number % USERS}", f"cart-{number}"
    # With a journal the key may be random, because the journal remembers it.
    key = Key.random() if JOURNAL else Key.derive(["order", user, cart])
    return key, {"user_id": user, "cart_id": cart, "items": [{"product_id": "prod1", "quantity": 2, "price": 10.5}]}


async def with_tasks() -> None:
    session = httpx.AsyncClient(trust_env=False)
    async with keylatch_client.httpx.AsyncClient(session, journal=JOURNAL, policy=POLICY) as client:
        if JOURNAL:
            resuming()
            async for each in client.resume():
                resumed(each)
        numbers = iter(NUMBERS)

        async def worker() -> None:
            for number in numbers:
                key, body = order(number)
                told(await client.post(URL, json=body, key=key))

        async with asyncio.TaskGroup() as workers:
            for _ in range(IN_FLIGHT):
                workers.create_task(worker())


def with_threads(library: str) -> None:
    def client() -> keylatch_client.httpx.Client | keylatch_client.requests.Client:
        if library == "httpx":
            return keylatch_client.httpx.Client(httpx.Client(trust_env=False), journal=JOURNAL, policy=POLICY)
        session = requests.Session()
        session.trust_env = False
        return keylatch_client.requests.Client(session, journal=JOURNAL, policy=POLICY)

    shared, own = client(), threading.local()

    def place(number: int) -> None:
        if library == "requests" and not hasattr(own, "client"):
            own.client = client()
        key, body = order(number)
        told((own.client if library == "requests" else shared).post(URL, json=body, key=key))

    if JOURNAL:
        resuming()
        each: Resumed[Any]
        for each in shared.resume():
            resumed(each)
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        results: Iterable[None] = pool.map(place, NUMBERS)
        for _ in results:
            pass


if sys.argv[1] == "httpx-async":
    asyncio.run(with_tasks())
else:
    with_threads(sys.argv[1])
