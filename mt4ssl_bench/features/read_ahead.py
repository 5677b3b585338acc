"""Reading ahead: what is read of the next batches while the present one is computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def read_ahead(
    batches: Iterable[Batch], read: Callable[[Batch], Result], readers: int
) -> Iterator[tuple[Batch, Result]]:
    """Yield each batch with the result of `read`, in order.

    Up to `readers` batches are read ahead, each in a thread.
    """
    ahead: deque[tuple[Batch, Future[Result]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        for batch in batches:
            ahead.append((batch, pool.submit(read, batch)))
            if len(ahead) > readers:
                first, result = ahead.popleft()
                yield first, result.result()
        for first, result in ahead:
            yield first, result.result()
