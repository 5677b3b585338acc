"""MT4SSL: one student, any set of target extractors, one weighted sum of their losses over masked
frames.

Shapes: B batch, N samples, T frames, D dimension, M masked frames, R masked views per utterance
(clones).
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mt4ssl_bench.data.frame_grid import frame_counts
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.encoder import Encoder
from mt4ssl_bench.upstream.frontend import Frontend
from mt4ssl_bench.upstream.targets import TargetExtractor, build_extractors


class Losses(NamedTuple):
    """One forward pass: `sums` by extractor, unweighted, over `masked` frames."""

    sums: dict[str, Tensor]
    masked: int
    hidden: Tensor  # (M, D) the student's last output at masked frames


class MT4SSL(nn.Module):
    """The student with its extractors; `config` is what a checkpoint needs to rebuild it."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False  # in training, compute the front end again in the backward pass
        dim = config.encoder.dim
        self.frontend = Frontend(config.frontend, dim)
        self.mask_emb = nn.Parameter(torch.empty(dim).uniform_())
        self.encoder = Encoder(config.encoder)
        extractors = build_extractors(
            config.targets.offline, config.targets.online, self.encoder, dim
        )
        self.extractors = nn.ModuleDict(cast("dict[str, nn.Module]", dict(extractors)))

    def named_extractors(self) -> Iterator[tuple[str, TargetExtractor]]:
        """Yield the target extractors by name, typed."""
        for name, module in self.extractors.items():
            yield name, cast("TargetExtractor", module)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, labels: Tensor | None, mask: Tensor
    ) -> Losses:
        """Return the losses of one batch.

        Args:
            waveforms: (B, N) normalised, zero-padded.
            lengths: (B,) real samples.
            labels: (B, T) cluster ids, where the offline extractor is in the model.
            mask: (R * B, T) masked frames; view r of utterance b is row r * B + b.
        """
        again = self.checkpointing and self.training
        frames = (
            checkpoint(self.frontend, waveforms, use_reentrant=False)
            if again
            else self.frontend(waveforms)
        )
        padding = padding_mask(lengths, frames.shape[1])  # (B, T), for frames (B, T, D)
        row, time = mask.nonzero(as_tuple=True)  # (M,) in row-major order
        views = len(mask) // len(frames)
        x = torch.where(mask[..., None], self.mask_emb.to(frames.dtype), frames.repeat(views, 1, 1))
        # masked frames first, in order: all that the last layer has to compute; rows may have
        # unequal numbers of them
        at = mask.int().argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]
        output = self.encoder(x, None if padding is None else padding.repeat(views, 1), at)
        hidden = output.hidden[-1][mask.gather(1, at)]  # (M, D)
        utterance = row % len(frames)
        sums = {
            name: extractor.loss(
                hidden, extractor.targets(labels, frames, padding)[utterance, time]
            )
            for name, extractor in self.named_extractors()
        }
        return Losses(sums, len(row), hidden)

    def total(self, losses: Losses) -> Tensor:
        """Return the weighted sum of the losses, still summed over masked frames."""
        parts = [
            extractor.weight * losses.sums[name] for name, extractor in self.named_extractors()
        ]
        return torch.stack(parts).sum()

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's input and every layer's output, each (B, T, D), and the real frames
        (B,).

        Waveforms (B, N) are normalised and zero-padded; padded frames hold no information.
        """
        frames = self.frontend(waveforms)
        output = self.encoder(frames, padding_mask(lengths, frames.shape[1]))
        return [output.embedded, *output.hidden], frame_counts(lengths)


def padding_mask(lengths: Tensor, frames: int) -> Tensor | None:
    """Return (B, T), True at frames beyond an utterance's own, or None where every frame is
    real.
    """
    real = frame_counts(lengths)
    if int(real.min()) >= frames:
        return None
    return torch.arange(frames, device=lengths.device) >= real[:, None]
