"""Time and randomness. Tests put another one in its place."""

import asyncio
import random
import time


class Clock:
    """The clock of this machine."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def unix_s(self) -> float:
        """The date."""
        return time.time()

    def random(self) -> float:
        """At least 0, and less than 1."""
        return random.random()

    def sleep(self, seconds: float) -> None:
        """Pauses the thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Pauses the task."""
        await asyncio.sleep(seconds)
