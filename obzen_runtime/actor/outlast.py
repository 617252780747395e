"""Waiting that a cancellation does not end: whoever owns a task sees its end, and gives the cancellation on afterwards.

A cancelled scope of anyio cancels every wait anew until it is left; the shield keeps that off, so that each further
cancellation seen here is one that somebody asked for.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from anyio import CancelScope

__all__ = ["outlast"]


async def outlast(task: asyncio.Task[Any], told: Callable[[int], object] = int) -> asyncio.CancelledError | None:
    """Return once `task` has ended, with the first cancellation of the caller, which still counts, or None.

    `told(n)` is called at the nth cancellation. What the task returned or raised stays in it.
    """
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError as first:
        times = 1
        told(times)
        with CancelScope(shield=True):
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError:
                    times += 1
                    told(times)
        return first
    return None
