"""Calls a user's code, plain or async, so that nothing it does reaches beyond its episode."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any


async def ask(method: Callable[..., Any], *arguments: Any) -> Any:
    """What a method of an agent returns, async or plain."""
    if inspect.iscoroutinefunction(method):
        return await contained(method(*arguments))
    answer = await in_thread(method, *arguments)
    return await contained(answer) if inspect.isawaitable(answer) else answer


async def contained(work: Awaitable[Any]) -> Any:
    """What a user's code comes to, whatever it raises.

    `SystemExit` would end the loop, and with it all other episodes; a cancellation that nobody has
    asked for, or the panic of a library in Rust, which is no `Exception`, would pass for the
    episode's own, and nobody would hear of it again.

    Raises:
        RuntimeError: one of these; anything else as it is.
    """
    try:
        return await work
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and _was_asked_for():
            raise
        raise RuntimeError(f"an agent raised {error!r}") from error


def _was_asked_for() -> bool:
    """Whether somebody cancels this task; before Python 3.11 nobody can tell."""
    if sys.version_info < (3, 11):
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread of its own, which nothing waits for where it hangs.

    `asyncio.to_thread` has a pool of a few threads: as many agents that hang would stop all others,
    and the process could not end.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(answer: Any, error: BaseException | None) -> None:
        if not answered.done():  # cancelled meanwhile
            answered.set_result((answer, error))

    def run() -> None:
        answer, failure = None, None
        try:
            answer = function(*arguments)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=run, daemon=True).start()
    answer, error = await answered
    if error is None:
        return answer
    # `SystemExit` and the like would end the loop, and with it all other episodes.
    raise error if isinstance(error, Exception) else RuntimeError(f"{function} raised {error!r}")
