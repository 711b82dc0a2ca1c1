"""How much a call of the client costs beside the bare library, at 50 in flight. In one run, by turns, on one server:

    python3 bench/bench.py httpx-async http://127.0.0.1:3000/api/orders

with httpx-async, httpx or requests.
"""

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
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


@dataclass
class Round:
    per_second: float
    cpu_us: float
    """Microseconds of this process's CPU for each call."""


@contextmanager
def measured(rounds: list[Round]) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    rounds.append(Round(CALLS / (time.perf_counter() - began), (time.process_time() - cpu) / CALLS * 1e6))


def turns(run: Callable[[str, list[Round]], None]) -> None:
    found: dict[str, list[Round]] = {"bare": [], "client": []}
    for number in range(-2, ROUNDS):
        for way in ("bare", "client") if number % 2 else ("client", "bare"):
            run(way, found[way])
    print(f"medians of {ROUNDS} rounds of {CALLS} calls, {IN_FLIGHT} in flight; ratios to the bare library by round")
    for way, rounds in found.items():
        # The first rounds warm up.
        pairs = list(zip(rounds[2:], found["bare"][2:], strict=True))
        per_second, cpu_us = (median(one.per_second for one, _ in pairs), median(one.cpu_us for one, _ in pairs))
        speed = median(one.per_second / bare.per_second for one, bare in pairs)
        cpu = median(one.cpu_us / bare.cpu_us for one, bare in pairs)
        print(f"{LIBRARY}, {way}: {per_second:.0f}/s ({speed:.3f}), {cpu_us:.0f} us of CPU each ({cpu:.3f})")


def with_tasks() -> None:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    session = httpx.AsyncClient(trust_env=False, limits=limits, timeout=60)
    client = keylatch_client.httpx.AsyncClient(session)

    async def bare() -> int:
        return (await session.post(URL, json=order(), headers=headers())).status_code

    async def through_client() -> int:
        return (await client.post(URL, json=order())).status

    async def run(way: str, rounds: list[Round]) -> None:
        left, call = iter(range(CALLS)), bare if way == "bare" else through_client

        async def worker() -> None:
            for _ in left:
                check(await call())

        with measured(rounds):
            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))

    with asyncio.Runner() as runner:
        turns(lambda way, rounds: runner.run(run(way, rounds)))


def with_threads() -> None:
    own = threading.local()
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    shared: Any = httpx.Client(trust_env=False, limits=limits, timeout=60)
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

        def run(way: str, rounds: list[Round]) -> None:
            with measured(rounds):
                for _ in pool.map(call, [way] * CALLS):
                    pass

        turns(run)


if LIBRARY == "httpx-async":
    with_tasks()
else:
    with_threads()
