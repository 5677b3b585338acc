"""Reading ahead: what is read of the next batches while the present one is computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    batches: Iterable[Sequence[Item]], read: Callable[[Item], Result], readers: int
) -> Iterator[tuple[Sequence[Item], list[Result]]]:
    """Yield each batch with what `read` made of its items, in order.

    Up to `readers` batches are read ahead, by as many threads. These share the first batch, so that
    it is soon there.
    """
    ahead: deque[tuple[Sequence[Item], list[Future[Result]]]] = deque()
    pool = ThreadPoolExecutor(readers)
    try:
        for batch in batches:
            ahead.append((batch, [pool.submit(read, item) for item in batch]))
            if len(ahead) > readers:
                first, results = ahead.popleft()
                yield first, [result.result() for result in results]
        for first, results in ahead:
            yield first, [result.result() for result in results]
    finally:
        pool.shutdown(cancel_futures=True)  # what nobody waits for any more is not read
