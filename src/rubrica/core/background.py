"""Results of a coroutine that runs in a thread of its own, read by an ordinary loop."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")


class Background(Iterator[ResultT], Generic[ResultT]):
    """Runs ``main(put)`` and yields what it puts; then ends, or raises what ``main`` raised."""

    def __init__(self, main: Callable[[Callable[[ResultT], None]], Coroutine[object, None, None]]) -> None:
        self._results: queue.SimpleQueue[tuple[ResultT] | BaseException | None] = queue.SimpleQueue()
        put = self._results.put
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(main(lambda result: put((result,))))
        self._over = self._closed = False
        threading.Thread(target=_run, args=(self._loop, self._task, put), daemon=True).start()

    def __next__(self) -> ResultT:
        if self._over:
            raise StopIteration
        found = self._results.get()
        if isinstance(found, tuple):
            return found[0]
        self._over = True
        if found is None or self._closed:
            raise StopIteration
        raise found.exceptions[0] if isinstance(found, BaseExceptionGroup) else found

    def close(self) -> None:
        """Cancel what is under way. What had arrived by then is still yielded, so that none of it is lost."""
        self._closed = True
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._task.cancel)

    def __del__(self) -> None:
        self.close()


def _run(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], put: Callable[[BaseException | None], None]
) -> None:
    """Run ``task`` to its end and say how it ended, whatever happens."""
    try:
        loop.run_until_complete(task)
        put(None)
    except BaseException as error:
        put(error)
    finally:
        loop.close()
