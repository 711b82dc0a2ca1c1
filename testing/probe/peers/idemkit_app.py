"""An orders API on Starlette, made safe by idemkit as its own documentation says, with its records in Redis.

PORT, REDIS_URL, and ORDERS, the file of orders.
"""

import asyncio
import os
from pathlib import Path

import uvicorn
from idemkit import HttpConfig, IdempotencyMiddleware, RedisBackend
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

ORDERS = Path(os.environ["ORDERS"])


def orders() -> int:
    return len(ORDERS.read_bytes().splitlines()) if ORDERS.exists() else 0


async def count(_: Request) -> JSONResponse:
    return JSONResponse({"orders": orders()})


async def order(request: Request) -> JSONResponse:
    try:
        await request.json()
    except ValueError:
        return JSONResponse({"error": "the body is not JSON"}, 400)
    body = await request.body()
    await asyncio.sleep(0.03)
    with ORDERS.open("ab") as file:
        file.write(body + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return JSONResponse({"order_id": orders()}, 201)


app = Starlette(routes=[Route("/api/orders", count), Route("/api/orders", order, methods=["POST"])])
app.add_middleware(
    IdempotencyMiddleware,
    backend=RedisBackend.from_url(os.environ["REDIS_URL"]),
    config=HttpConfig(scope=lambda request: request.headers.get("x-user-id", "anonymous")),
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
