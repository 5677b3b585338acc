"""Features that are not stored: every reading runs the upstream again.

They stay on the upstream's device, and are rounded as stored ones are, so that free disk space and
the speed of a disk do not change a score.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.device import moved, to_host
from mt4ssl_bench.encoders.hidden_states import HUGE
from mt4ssl_bench.errors import CorpusError, UpstreamError
from mt4ssl_bench.features.file import Draw, FeatureSet, padded, too_large
from mt4ssl_bench.features.forward_pass import READERS, Pass, Values, Waves
from mt4ssl_bench.features.precision import Precision, rounded
from mt4ssl_bench.features.read_ahead import read_ahead

LOOK_EVERY = 100  # batches after which an accelerator is asked whether their values are finite


class LiveFeatures(FeatureSet):
    """Features of cuts by a pass that runs in every reading."""

    def __init__(self, forward: Pass, cuts: Sequence[Cut], precision: Precision) -> None:
        self.precision = precision
        self.layers, self.dim = forward.upstream.num_layers, forward.upstream.dim
        self._forward, self._cuts = forward, {cut.id: cut for cut in cuts}
        self._host = torch.device(forward.device).type == "cpu"
        # batches that nobody has looked at: utterances, and whether their values are fine (B,)
        self._unseen: list[tuple[Sequence[Cut], Tensor]] = []

    def rows(self, names: Sequence[str], crops: Sequence[int] | None = None) -> list[Values]:
        """See FeatureSet.rows."""
        cuts = [self._cuts[name] for name in names]
        x, lengths = self._computed(cuts, self._forward.read(cuts), crops)
        self._look()
        x = to_host(x)
        return [x[:, b, :count].numpy() for b, count in enumerate(lengths.tolist())]

    def stream(
        self, batches: Iterable[Sequence[str]], device: str, draw: Draw | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See FeatureSet.stream; threads read the audio of the next batches."""
        wanted = ([self._cuts[name] for name in names] for names in batches)
        for cuts, audios in read_ahead(wanted, self._forward.read_one, READERS):
            crops = draw(len(cuts), self.count(cuts[0].id)).tolist() if draw else None
            x, lengths = self._computed(cuts, audios, crops)
            if self._host or len(self._unseen) >= LOOK_EVERY:
                self._look()
            yield moved(x, device), lengths
        self._look()

    def count(self, name: str) -> int:
        """See FeatureSet.count; computed from the duration: one off, or more with effects."""
        return self._forward.rows([self._cuts[name]])

    def at(self, epoch: int) -> "LiveFeatures":
        """See FeatureSet.at."""
        return LiveFeatures(self._forward.at(epoch), list(self._cuts.values()), self.precision)

    def _computed(
        self, cuts: Sequence[Cut], audios: Waves, crops: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Return features (L, B, T, D) on the upstream's device, and T_b (B,).

        Nothing waits for the device. The batch is rounded and looked at as a whole, since a GPU is
        done with an utterance sooner than the host starts the next one.
        """
        forward = self._forward
        if crops is not None:
            forward = forward.single()
            audios = [
                # an utterance that is not longer than a crop has only one
                waves if isinstance(waves, CorpusError) else [waves[crop if len(waves) > 1 else 0]]
                for waves, crop in zip(audios, crops, strict=True)
            ]
        x, lengths = padded(forward.compute(cuts, audios, checked=self._host))
        x = rounded(x, self.precision)
        self._unseen.append((cuts, (x.abs() <= HUGE).all((0, 2, 3))))  # NaN fails, too
        return x, lengths

    def _look(self) -> None:
        """Raise UpstreamError if a value was not finite, or too large for fp16.

        The utterances of such a batch are run again, which names the one that is the reason.
        """
        unseen, self._unseen = self._unseen, []
        if not unseen or bool(torch.cat([sound for _, sound in unseen]).all()):
            return
        for cuts, sound in unseen:
            for cut, fine in zip(cuts, sound.tolist(), strict=True):
                if not fine:
                    (row,) = self._forward.compute([cut], self._forward.read([cut]))
                    if not rounded(row, self.precision).isfinite().all():
                        raise too_large(cut.id, row)
                    raise UpstreamError(
                        f"upstream '{self._forward.upstream.name}': values of '{cut.id}' are not "
                        "finite in a batch with others, and finite on its own; check it with: "
                        "mt4ssl-bench check-upstream"
                    )
