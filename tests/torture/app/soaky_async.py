"""The same, and async tasks: so the workers run many at a time."""

import asyncio

from soaky import *  # type: ignore[import-not-found]  # noqa: F403 (beside this)
from stormy import tell  # type: ignore[import-not-found]  # beside this

from spooler import spool


@spool
async def nap(n: str) -> None:
    tell("begin", n)
    await asyncio.sleep(0.02)
    tell("end", n)
