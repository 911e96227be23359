"""Threads for tools that are plain functions. Knows nothing of tools.

They are neither asyncio's default ones, which the rest of the server needs, nor those of `concurrent.futures`, for
which the interpreter waits when it ends: a function that hangs keeps its thread, but nothing else.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

Job = tuple[Future[Any], Callable[[], Any]]


class ToolThreads:
    """At most `most` threads, started as they are needed; what comes when all are busy waits for its turn."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._started = 0
        self._open = 0
        self._lock = Lock()
        self._jobs: SimpleQueue[Job] = SimpleQueue()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run it in a thread, with the caller's context variables. It is not begun when its future is cancelled."""
        future: Future[Any] = Future()
        self._jobs.put((future, partial(copy_context().run, function)))
        with self._lock:
            self._open += 1
            if self._started < min(self._open, self._most):
                self._started += 1
                Thread(target=self._work, name=f"tool-{self._started}", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, function = self._jobs.get()
            if future.set_running_or_notify_cancel():
                _settle(future, function)
            del future, function  # which hold the arguments and the result
            with self._lock:
                self._open -= 1


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except StopIteration:  # which asyncio's futures do not take
        future.set_exception(RuntimeError("the function raised StopIteration"))
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
