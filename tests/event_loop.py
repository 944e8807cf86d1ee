"""Whether an event loop goes on while something is awaited."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def ticks_during(awaitable: Awaitable[Any]) -> int:
    """How often the event loop came to something else meanwhile; 10 ms lie between two times, at least."""
    task, ticks = asyncio.ensure_future(awaitable), 0
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    await task
    return ticks
