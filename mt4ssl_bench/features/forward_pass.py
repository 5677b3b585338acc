"""One pass of an upstream over audio, in length-bucketed batches: what an utterance gives never
depends on its batch.

Hidden states come first everywhere: Upstream.extract() gives (L, B, T, D), a Pass (L, T, D) of each
utterance, FeatureSet.batch() (L, B, T, D), which heads read. Only a file has frames first.

Shapes: L hidden states, B batch, T frames, D dimension, K crops.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.console import progress
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.batches import Batches, pad
from mt4ssl_bench.encoders.hidden_states import HUGE, LEAK, broken_layers, padding_leak
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CorpusError, UpstreamError, first_line

LOGGER = logging.getLogger(__name__)
# audio per forward pass, padding included: on a CPU a quarter faster than 80, for its caches
BATCH_SECONDS = 20.0
ACCELERATED = 4.0  # times as much on an accelerator, which has more to do at once
# batches read ahead, each in a thread of its own, so that a fast device does not wait for files
READERS = 4

Batch = TypeVar("Batch")
Result = TypeVar("Result")
Values = NDArray[np.float32]  # one utterance: (L, T, D), or (L, K, D) for means of crops
Found = list[tuple[str, Values]]  # one batch, by utterance id


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Seeded crops of every utterance whose features are averaged over time.

    Seconds=0 takes utterances whole.
    """

    seconds: float
    count: int = 1
    seed: int = 0

    def waveforms(self, cut: Any) -> list[audio.Samples]:  # noqa: ANN401 - lhotse ships no types
        """Return the cut's crops, which depend on the seed and its id alone.

        A cut shorter than a crop whole, once.
        """
        samples = audio.read(cut)
        length = round(self.seconds * audio.RATE)
        if not length or len(samples) <= length:
            return [samples]
        drawn = hashlib.blake2b(f"{self.seed} {cut.id}".encode(), digest_size=8).digest()
        starts = np.random.default_rng(int.from_bytes(drawn)).integers(
            0, len(samples) - length + 1, self.count
        )
        return [samples[start : start + length] for start in starts]


class Pass:
    """What `upstream` makes of cuts: every frame, or the means over the frames of each crop.

    Means are exact for heads that are linear up to a mean over time.
    """

    def __init__(self, upstream: Upstream, crops: Crops | None = None) -> None:
        self.upstream, self.crops = upstream, crops

    @property
    def kind(self) -> str:
        """Return what comes of it: "frames", or which means."""
        return (
            f"means-{self.crops.seconds:g}s-{self.crops.count}-{self.crops.seed}"
            if self.crops
            else "frames"
        )

    def seconds(self, cuts: Sequence[Any]) -> float:
        """Return how much audio the upstream hears."""
        if self.crops is None:
            return float(sum(cut.duration for cut in cuts))
        longest = self.crops.seconds or float("inf")
        return float(sum(min(cut.duration, longest) for cut in cuts) * self.crops.count)

    def rows(self, cuts: Sequence[Any]) -> int:
        """Return about how many (L, D) rows the cuts will give, from their durations alone."""
        if self.crops:
            return len(cuts) * self.crops.count
        return int(sum(cut.duration for cut in cuts) * audio.RATE / self.upstream.stride)

    def __call__(
        self,
        cuts: Sequence[Any],
        *,
        done: Container[str] = (),
        title: str = "",
        unreadable: dict[str, str] | None = None,
    ) -> Iterator[Found]:
        """Yield batch by batch what is not `done` yet; a title shows progress.

        The batches depend on `cuts` alone, so that an interrupted pass ends with the very values of
        a whole one. Raises UpstreamError naming the utterance that a model fails on or whose
        features hold NaN, and CorpusError for audio that cannot be read; with `unreadable` it is
        left out instead, logged, and noted there: id -> reason.
        """
        left = sum(cut.id not in done for cut in cuts)
        views = self.crops.count if self.crops else 1
        on_cpu = getattr(self.upstream, "device", "cpu") == "cpu"
        seconds = BATCH_SECONDS if on_cpu else BATCH_SECONDS * ACCELERATED
        if padding_is_safe(self.upstream):
            order = Batches(cuts, list, seconds=seconds / views)()
        else:
            order = Batches(cuts, list, count=1)()
        batches = [batch for batch in order if any(cut.id not in done for cut in batch)]
        shown = (
            progress(title, len(cuts), start=len(cuts) - left) if title else nullcontext(_silent)
        )
        with shown as advance:
            for batch, waves in read_ahead(batches, self._read, READERS):
                read = _readable([cut.id for cut in batch], waves, unreadable)
                values = self._forward(*zip(*read, strict=True)) if read else []
                new = [pair for pair in values if pair[0] not in done]
                if new:
                    yield new
                advance(sum(cut.id not in done for cut in batch), "")

    def _read(self, cuts: Sequence[Any]) -> list[list[audio.Samples] | CorpusError]:
        found: list[list[audio.Samples] | CorpusError] = []
        for cut in cuts:
            try:
                found.append(self.crops.waveforms(cut) if self.crops else [audio.read(cut)])
            except CorpusError as error:
                found.append(error)
        return found

    def _forward(self, ids: Sequence[str], views: Sequence[Sequence[audio.Samples]]) -> Found:
        """Return a batch's features.

        One that fails is run again one by one, which tells whose fault it is.
        """
        rows: list[Tensor] = []
        try:
            rows = self._extract([wave for view in views for wave in view])
        except Exception as error:  # noqa: BLE001 - a model may fail in any way
            LOGGER.debug("running the %d utterances of a batch alone: %r", len(ids), error)
        if not rows or not _finite(rows):
            rows = [
                row
                for name, view in zip(ids, views, strict=True)
                for row in self._alone(name, view)
            ]
        if self.crops:
            means = iter([row.mean(1) for row in rows])
            each = [torch.stack([next(means) for _ in view], 1) for view in views]  # (L, 1 or K, D)
            rows = [mean.expand(-1, self.crops.count, -1) for mean in each]
        return [(name, row.numpy()) for name, row in zip(ids, rows, strict=True)]

    def _alone(self, name: str, waves: Sequence[audio.Samples]) -> list[Tensor]:
        where = f"utterance '{name}' ({len(waves[0]) / audio.RATE:.2f} s)"
        try:
            rows = self._extract(waves)
        except Exception as error:
            raise UpstreamError(
                f"upstream '{self.upstream.name}' failed on {where}: {first_line(error)}"
            ) from error
        if not _finite(rows):
            raise UpstreamError(
                f"upstream '{self.upstream.name}': broken on {where}: "
                f"{broken_layers(torch.cat(rows, dim=1))}; expected finite values in fp32; check the "
                "model's weights with: mt4ssl-bench check-upstream"
            )
        return rows

    def _extract(self, waves: Sequence[audio.Samples]) -> list[Tensor]:
        """Return each waveform's real frames (L, T, D)."""
        upstream = self.upstream
        layers, lengths = upstream.extract(*pad(waves))
        if (layers.shape[0], layers.shape[-1]) != (upstream.num_layers, upstream.dim):
            raise UpstreamError(
                f"upstream '{upstream.name}' gave hidden states {tuple(layers.shape)}; its "
                f"num_layers and dim say ({upstream.num_layers}, {len(waves)}, frames, "
                f"{upstream.dim})"
            )
        layers = layers.float().cpu()
        return [layers[:, b, :count] for b, count in enumerate(lengths.tolist())]


def read_ahead(
    batches: Iterable[Batch], read: Callable[[Batch], Result], readers: int
) -> Iterator[tuple[Batch, Result]]:
    """Yield each batch with what `read` returns of it, in order.

    Up to `readers` batches are read ahead, each in a thread of its own.
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


def _readable(
    ids: Sequence[str],
    waves: Sequence[list[audio.Samples] | CorpusError],
    unreadable: dict[str, str] | None,
) -> list[tuple[str, list[audio.Samples]]]:
    """Return ids with their waveforms, without what cannot be read; see Pass."""
    found = []
    for name, wave in zip(ids, waves, strict=True):
        if not isinstance(wave, CorpusError):
            found.append((name, wave))
        elif unreadable is None:
            raise wave
        elif name not in unreadable:
            unreadable[name] = str(wave)
            LOGGER.warning("left out, %d so far: %s", len(unreadable), wave)
    return found


def padding_is_safe(upstream: Upstream) -> bool:
    """Return whether padding leaves features as they are; if not, the log says so."""
    if upstream.fingerprint not in _SAFE:
        _SAFE[upstream.fingerprint] = padding_leak(upstream.extract) <= LEAK
        if not _SAFE[upstream.fingerprint]:
            LOGGER.info(
                "%s: padding changes the features; running one utterance per batch", upstream.name
            )
    return _SAFE[upstream.fingerprint]


_SAFE: dict[str, bool] = {}  # by fingerprint


def _finite(rows: Sequence[Tensor]) -> bool:
    return all(bool((row.abs() <= HUGE).all()) for row in rows)  # NaN fails, too


def _silent(count: int, note: str) -> None:
    pass
