"""Decoded audio that is kept in memory, where a corpus is small and one process reads it."""

from collections.abc import Callable

from mt4ssl_bench.data.audio import Samples
from mt4ssl_bench.data.cut import Cut


class AudioCache:
    """Reads the audio of cuts; keeps it if all of it is allowed (230 MB per hour).

    Args:
        read: Returns the audio of a cut.
        seconds: Audio of all cuts that will be read.
        hours: Most audio to keep; with more nothing is kept.
        workers: Loader processes: each would keep its own copy, so that with any nothing is kept.
    """

    def __init__(
        self, read: Callable[[Cut], Samples], *, seconds: float, hours: float, workers: int
    ) -> None:
        self._read, self._keep = read, not workers and seconds <= hours * 3600
        self._samples: dict[tuple[str, int, float], Samples] = {}

    def __call__(self, cut: Cut) -> Samples:
        """Return the samples (N,) of a cut."""
        if not self._keep:
            return self._read(cut)
        # several corpora may have the id: the file, or the bytes in a shard, tells them apart
        key = cut.id, hash(cut.recording.sources[0].source), cut.start
        if (samples := self._samples.get(key)) is None:
            samples = self._samples[key] = self._read(cut)
        return samples
