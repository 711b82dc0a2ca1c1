"""How much a call of the client costs beside the bare library, at 50 in flight. In one run, by turns, on one server:

    python3 bench/bench.py httpx-async http://127.0.0.1:3000/api/orders

with httpx-async, httpx or requests.
"""

import asyncio
import itertools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import keylatch_client.httpx
import keylatch_client.requests
import requests
from keylatch_client import Key

IN_FLIGHT = 50
CALLS = 1_000
ROUNDS = 21
LIBRARY, URL = sys.argv[1:]
NUMBERS = itertools.count()


def order() -> dict[str, Any]:
    cart = f"cart-{os.getpid()}-{next(NUMBERS)}"
    return {"user_id": "bench", "cart_id": cart, "items": [{"product_id": "prod1", "quantity": 2, "price": 10.5}]}


def headers() -> dict[str, str]:
    return {"idempotency-key": Key.random().quoted(), "prefer": "wait=5"}


def check(status: int) -> None:
    if status != 201:
        raise RuntimeError(f"not taken: {status}")


def report(found: dict[str, list[float]]) -> None:
    median = {name: statistics.median(values) for name, values in found.items()}
    print(f"bare {LIBRARY} {median['bare']:.0f}/s, client {median['client']:.0f}/s")
    print(f"client / bare: {median['ratio']:.3f} (median of {ROUNDS} rounds of {CALLS} calls, {IN_FLIGHT} in flight)")


def turns(per_second: Callable[[str], float]) -> None:
    found: dict[str, list[float]] = {"bare": [], "client": [], "ratio": []}
    for number in range(-2, ROUNDS):
        one = {way: per_second(way) for way in (("bare", "client") if number % 2 else ("client", "bare"))}
        # The first rounds warm up.
        if number >= 0:
            found["bare"].append(one["bare"])
            found["client"].append(one["client"])
            found["ratio"].append(one["client"] / one["bare"])
    report(found)


def with_tasks() -> None:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    session = httpx.AsyncClient(trust_env=False, limits=limits)
    client = keylatch_client.httpx.AsyncClient(session)

    async def bare() -> int:
        return (await session.post(URL, json=order(), headers=headers())).status_code

    async def through_client() -> int:
        return (await client.post(URL, json=order())).status

    async def run(way: str) -> float:
        left, call = iter(range(CALLS)), bare if way == "bare" else through_client

        async def worker() -> None:
            for _ in left:
                check(await call())

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return CALLS / (time.perf_counter() - began)

    with asyncio.Runner() as runner:
        turns(lambda way: runner.run(run(way)))


def with_threads() -> None:
    own = threading.local()
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    shared: Any = httpx.Client(trust_env=False, limits=limits)
    client = keylatch_client.httpx.Client(shared)

    def mine() -> None:
        if LIBRARY == "httpx":
            own.session, own.client = shared, client
        elif not hasattr(own, "session"):
            own.session = requests.Session()
            own.session.trust_env = False
            own.client = keylatch_client.requests.Client(own.session)

    def call(way: str) -> None:
        mine()
        if way == "bare":
            check(own.session.post(URL, json=order(), headers=headers()).status_code)
        else:
            check(own.client.post(URL, json=order()).status)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:

        def per_second(way: str) -> float:
            began = time.perf_counter()
            for _ in pool.map(call, [way] * CALLS):
                pass
            return CALLS / (time.perf_counter() - began)

        turns(per_second)


if LIBRARY == "httpx-async":
    with_tasks()
else:
    with_threads()
