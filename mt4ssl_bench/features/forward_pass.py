"""Passes of an upstream over audio, in length-bucketed batches.

An utterance's features do not depend on its batch. Hidden states come first everywhere:
Upstream.extract() gives (L, B, T, D), a Pass (L, T, D) for each utterance, and FeatureSet.batch()
(L, B, T, D), which heads read. Only a file has frames first.

Shapes: L hidden states, B batch, N samples, T frames, D dimension, K crops.
"""

import logging
import math
import re
from collections.abc import Container, Iterator, MutableMapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.console import progress
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.batches import Batches, pad
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.effects import Effect, apply
from mt4ssl_bench.device import Arithmetic, arithmetic, to_host
from mt4ssl_bench.encoders.hidden_states import HUGE, LEAK, broken_layers, padding_leak
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import ConfigError, CorpusError, UpstreamError, first_line
from mt4ssl_bench.features.crops import Crops, FreshCrop
from mt4ssl_bench.features.read_ahead import read_ahead
from mt4ssl_bench.threads import affinity

LOGGER = logging.getLogger(__name__)
# audio per forward pass, padding included: on a CPU a quarter faster than 80, for its caches
BATCH_SECONDS = 20.0
ACCELERATED = 12.0  # times as much on an accelerator, which has more to do at once
SHORTEST = 0.1  # seconds below which effects leave nothing that an upstream could read
# batches read ahead, and threads that read them, so that a fast device does not wait for files
READERS = min(max(affinity(), 4), 16)

Values = NDArray[np.float32]  # features of an utterance: (L, T, D), or (L, K, D) for means of crops
Named = tuple[str, Values]  # with its id
Waves = Sequence[list[audio.Samples] | CorpusError]  # of each cut, or why it cannot be read


class Pass:
    """Features of cuts: of every frame, or means over the frames of each crop.

    Means are exact for heads that are linear up to a mean over time. Audio that effects shorten to
    less than SHORTEST has no frames, and does not reach the upstream.

    Args:
        upstream: The model.
        crops: What to average over, or whose frames to take; None for every frame.
        effects: Applied in order to the audio of each cut, before it is cropped.
        precision: Arithmetic of the upstream's products; features of another one are others.
    """

    def __init__(
        self,
        upstream: Upstream,
        crops: Crops | FreshCrop | None = None,
        effects: Sequence[Effect] = (),
        precision: Arithmetic = "fp32",
    ) -> None:
        self.upstream, self.crops, self.effects = upstream, crops, tuple(effects)
        self.precision = precision
        self.device = str(getattr(upstream, "device", "cpu"))  # of features, before they are stored
        if precision == "tf32" and torch.device(self.device).type != "cuda":
            raise ConfigError(f"pass_precision=tf32: expected a CUDA device, got {self.device}")
        self._halved = False  # a batch did not fit into the device's memory
        for effect in self.effects:
            if not re.fullmatch(r"[\w.-]+", effect.key, re.ASCII):
                raise ConfigError(
                    f"audio effect '{effect.key}': expected a key of letters, digits, '.', '_' and "
                    "'-', since it is part of file names"
                )

    @property
    def kind(self) -> str:
        """What is computed, for stores: "frames" or which means, the arithmetic, the effects."""
        kind, crops = "frames", self.crops
        if isinstance(crops, Crops):
            kind = f"means-{crops.seconds:g}s-{crops.count}-{crops.seed}"
        elif crops:
            kind = f"crop-{crops.seconds:g}s-{crops.seed}-{crops.epoch}"
        if self.precision != "fp32":
            kind += f"-{self.precision}"
        return "+".join([kind, *(effect.key for effect in self.effects)])

    def at(self, epoch: int) -> "Pass":
        """Return the pass of an epoch: another one only where crops are drawn anew."""
        if not isinstance(self.crops, FreshCrop):
            return self
        crops = replace(self.crops, epoch=epoch)
        return Pass(self.upstream, crops, self.effects, self.precision)

    def single(self) -> "Pass":
        """Return the pass over one of the crops of each cut, which the caller chooses."""
        if not isinstance(self.crops, Crops):
            return self
        return Pass(self.upstream, replace(self.crops, count=1), self.effects, self.precision)

    def seconds(self, cuts: Sequence[Cut]) -> float:
        """Return the seconds of audio that the upstream processes."""
        if self.crops is None:
            return float(sum(cut.duration for cut in cuts))
        longest = self.crops.seconds or float("inf")
        return float(sum(min(cut.duration, longest) for cut in cuts) * self.crops.count)

    def rows(self, cuts: Sequence[Cut]) -> int:
        """Return the approximate number of (L, D) rows, from the durations only."""
        if isinstance(self.crops, Crops):
            return len(cuts) * self.crops.count
        return int(self.seconds(cuts) * audio.RATE / self.upstream.stride)

    def __call__(
        self,
        cuts: Sequence[Cut],
        *,
        done: Container[str] = (),
        title: str = "",
        unreadable: MutableMapping[str, str] | None = None,
        layer: int | None = None,
    ) -> Iterator[list[Named]]:
        """Yield what tensors() does, on the host; of one layer, (T, D), if it is given."""
        for batch in self.tensors(cuts, done=done, title=title, unreadable=unreadable):
            yield [(n, to_host(x if layer is None else x[layer]).numpy()) for n, x in batch]

    def tensors(
        self,
        cuts: Sequence[Cut],
        *,
        done: Container[str] = (),
        title: str = "",
        unreadable: MutableMapping[str, str] | None = None,
    ) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield ids with features, batch by batch, on the upstream's device.

        Args:
            cuts: They decide the batches, whatever is `done`: an interrupted pass ends with the
                very values of a whole one.
            done: Ids that are not yielded.
            title: Shows progress under this title.
            unreadable: Takes id -> reason of audio that cannot be read, which is then skipped.

        Raises:
            UpstreamError: If the model fails on an utterance, or gives NaN or infinite values.
            CorpusError: If audio cannot be read and `unreadable` is None.
        """
        left = sum(cut.id not in done for cut in cuts)
        batches = [batch for batch in self.batches(cuts) if any(c.id not in done for c in batch)]
        with progress(title, len(cuts), start=len(cuts) - left) as advance:
            for batch, audios in read_ahead(batches, self.read_one, READERS):
                read = _readable([cut.id for cut in batch], audios, unreadable)
                ids, waves = zip(*read, strict=True) if read else ((), ())
                features = self._forward(ids, waves) if read else []
                new = [(n, row) for n, row in zip(ids, features, strict=True) if n not in done]
                if new:
                    yield new
                advance(sum(cut.id not in done for cut in batch), "")

    def compute(self, cuts: Sequence[Cut], audios: Waves, *, checked: bool = True) -> list[Tensor]:
        """Return the features of each cut (L, T, D), on the upstream's device.

        Args:
            cuts: They may repeat.
            audios: What read() gave for them.
            checked: Wait for the device, and raise UpstreamError for values that are not finite.

        Raises:
            UpstreamError: See tensors().
            CorpusError: If audio could not be read.
        """
        ids, waves = zip(*_readable([cut.id for cut in cuts], audios, None), strict=True)
        rows: dict[int, Tensor] = {}
        for key in self._order(cuts).order(0):
            part = key.places.tolist()
            own = [ids[i] for i in part], [waves[i] for i in part]
            features = self._forward(*own, checked=checked)
            rows.update(zip(part, features, strict=True))
        return [rows[number] for number in range(len(cuts))]

    def batches(self, cuts: Sequence[Cut]) -> Iterator[Sequence[Cut]]:
        """Yield the cuts in batches, which depend on the cuts only."""
        return self._order(cuts)()

    def _order(self, cuts: Sequence[Cut]) -> Batches[list[Cut]]:
        if not padding_is_safe(self.upstream):
            return Batches(cuts, list, count=1)
        seconds = BATCH_SECONDS if self.device == "cpu" else BATCH_SECONDS * ACCELERATED
        count = self.crops.count if self.crops else 1
        longest = self.crops.seconds if isinstance(self.crops, FreshCrop) else math.inf
        return Batches(cuts, list, seconds=seconds / count, longest=longest)

    def read(self, cuts: Sequence[Cut]) -> Waves:
        """Return each cut's waveforms."""
        return [self.read_one(cut) for cut in cuts]

    def read_one(self, cut: Cut) -> list[audio.Samples] | CorpusError:
        """Return a cut's waveforms: the whole cut, or its crops; or why it cannot be read."""
        try:
            samples = audio.read(cut)
        except CorpusError as error:
            return error
        samples = apply(self.effects, samples)
        return self.crops.draw(samples, cut.id) if self.crops else [samples]

    def _forward(
        self,
        ids: Sequence[str],
        audios: Sequence[Sequence[audio.Samples]],
        *,
        checked: bool = True,
    ) -> list[Tensor]:
        """Return a batch's features, on the upstream's device.

        If the batch fails, each utterance is run on its own, to name the one that is the reason.
        """
        rows: list[Tensor] = []  # (L, T, D) of each waveform
        try:
            rows = self._extract([wave for waves in audios for wave in waves])
        except Exception as error:  # noqa: BLE001 - a model may fail in any way
            LOGGER.debug("running the %d utterances of a batch one by one: %r", len(ids), error)
        if not rows or (checked and not _finite(rows)):
            rows = [
                row
                for name, waves in zip(ids, audios, strict=True)
                for row in self._extract_one(name, waves)
            ]
        if isinstance(self.crops, Crops):
            frames = iter(rows)
            own = [[next(frames) for _ in waves] for waves in audios]
            for name, parts in zip(ids, own, strict=True):
                if not all(part.shape[1] for part in parts):
                    raise UpstreamError(f"utterance '{name}': no frame is left to average")
            means = [torch.stack([part.mean(1) for part in parts], dim=1) for parts in own]
            rows = [mean.expand(-1, self.crops.count, -1) for mean in means]  # (L, K, D)
        return rows

    def _extract_one(self, name: str, waves: Sequence[audio.Samples]) -> list[Tensor]:
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
                f"{broken_layers(torch.cat(rows, dim=1))}; expected finite values in fp32; check "
                "the model's weights with: mt4ssl-bench check-upstream"
            )
        return rows

    def _extract(self, waves: Sequence[audio.Samples]) -> list[Tensor]:
        """Return each waveform's real frames (L, T, D), in halves where memory ends."""
        try:
            return self._extract_together(waves)
        except torch.OutOfMemoryError as error:
            if len(waves) == 1:
                raise
            reason = first_line(error)
        # outside the block above: its traceback holds what the failed pass had computed
        if not self._halved:
            self._halved = True
            LOGGER.warning(
                "%s: out of device memory on a batch of %d waveforms (%s); from here on, such "
                "batches are run in halves",
                self.upstream.name,
                len(waves),
                reason,
            )
        middle = len(waves) // 2
        return [*self._extract(waves[:middle]), *self._extract(waves[middle:])]

    def _extract_together(self, waves: Sequence[audio.Samples]) -> list[Tensor]:
        upstream = self.upstream
        least = round(SHORTEST * audio.RATE) if self.effects else 0
        if short := [number for number, wave in enumerate(waves) if len(wave) < least]:
            long = [wave for wave in waves if len(wave) >= least]
            rows = iter(self._extract(long) if long else [])
            none = torch.empty(upstream.num_layers, 0, upstream.dim, device=self.device)
            return [none if number in short else next(rows) for number in range(len(waves))]
        with arithmetic(self.precision, self.device):
            layers, lengths = upstream.extract(*pad(waves, self.device))
        if (layers.shape[0], layers.shape[-1]) != (upstream.num_layers, upstream.dim):
            raise UpstreamError(
                f"upstream '{upstream.name}' gave hidden states {tuple(layers.shape)}; its "
                f"num_layers and dim say ({upstream.num_layers}, {len(waves)}, frames, "
                f"{upstream.dim})"
            )
        layers = layers.float()
        return [layers[:, b, :count] for b, count in enumerate(lengths.tolist())]


def _readable(
    ids: Sequence[str],
    audios: Waves,
    unreadable: MutableMapping[str, str] | None,
) -> list[tuple[str, list[audio.Samples]]]:
    """Return ids with their waveforms, without audio that cannot be read; see Pass."""
    read = []
    for name, waves in zip(ids, audios, strict=True):
        if not isinstance(waves, CorpusError):
            read.append((name, waves))
        elif unreadable is None:
            raise waves
        elif name not in unreadable:
            unreadable[name] = str(waves)
            LOGGER.warning("left out, %d so far: %s", len(unreadable), waves)
    return read


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
    """Return whether all values are finite, waiting for the device once."""
    return bool(torch.stack([(row.abs() <= HUGE).all() for row in rows]).all())  # NaN fails, too
