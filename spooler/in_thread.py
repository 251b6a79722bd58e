"""Call what may block from an event loop: asyncio's or trio's."""

from collections.abc import Callable
from typing import TypeVar

from anyio import to_thread

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread; return what it returns.

    It is not left alone: a cancellation waits until it has returned.
    """
    return await to_thread.run_sync(function)
