"""MT4SSL: one student, any number of target extractors, one weighted sum of their losses.

Shapes: B batch, N samples, T frames, D dimension, M masked frames, R masks per utterance (clones).
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mt4ssl_bench.data.frame_grid import frame_counts
from mt4ssl_bench.device import moved
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.encoder import Encoder
from mt4ssl_bench.upstream.frontend import Frontend
from mt4ssl_bench.upstream.masking import MaskedFrames
from mt4ssl_bench.upstream.targets import TARGETS, TargetExtractor


class Losses(NamedTuple):
    """Losses by extractor, unweighted, and their frames."""

    sums: dict[str, Tensor]
    masked: int  # frames that they are summed over
    hidden: Tensor  # (M, D) the student's last output at these frames


class MT4SSL(nn.Module):
    """The student with the target extractors of a config, or with none (`student_only`)."""

    def __init__(self, config: PretrainConfig, *, student_only: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False  # recompute the front end in the backward pass of training
        self.frontend = Frontend(config.frontend, config.encoder.dim)
        self.mask_emb = nn.Parameter(torch.empty(config.encoder.dim).uniform_())
        self.encoder = Encoder(config.encoder)
        self.extractors = nn.ModuleDict()
        for name, section in config.targets.sections().items():
            if section.weight and not student_only:
                self.extractors[name] = TARGETS.get(name)(section, self.encoder)

    def named_extractors(self) -> Iterator[tuple[str, TargetExtractor]]:
        """Yield the target extractors by name."""
        yield from cast("dict[str, TargetExtractor]", self.extractors).items()

    def forward(
        self,
        waveforms: Tensor,
        padding: Tensor | None,
        labels: Tensor | None,
        masked: MaskedFrames,
    ) -> Losses:
        """Return the losses of one batch, without waiting for an accelerator.

        Args:
            waveforms: (B, N) normalized and zero-padded.
            padding: (B, T), True at padded frames; None if there are none.
            labels: (B, T) cluster ids, or None if no extractor reads labels.
            masked: R masks of each utterance.
        """
        if self.checkpointing and self.training:
            frames = checkpoint(self.frontend, waveforms, use_reentrant=False)
        else:
            frames = self.frontend(waveforms)  # (B, T, D)
        clones = len(masked.mask) // len(frames)
        x = frames.repeat(clones, 1, 1)
        x = torch.where(masked.mask[..., None], self.mask_emb.to(x.dtype), x)
        # losses read masked frames only, and so the last layer computes only these
        rows = None if padding is None else padding.repeat(clones, 1)
        output = self.encoder(x, rows, masked.queries)
        hidden = output.hidden[-1].flatten(0, 1)[masked.place]  # (M, D)
        sums = {}
        for name, extractor in self.named_extractors():
            targets = extractor.targets(labels, frames, padding)
            sums[name] = extractor.loss(hidden, targets[masked.row, masked.time])
        return Losses(sums, len(hidden), hidden)

    def total(self, losses: Losses) -> Tensor:
        """Return the weighted sum of the losses, still summed over masked frames."""
        weighted = [e.weight * losses.sums[name] for name, e in self.named_extractors()]
        return torch.stack(weighted).sum()

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's input and each layer's output (B, T, D), and frame counts (B,).

        Waveforms (B, N) are normalized and zero-padded, of `lengths` (B,), which are on the host;
        outputs at padded frames mean nothing.
        """
        frames = self.frontend(waveforms)
        padding = padding_mask(lengths, frames.shape[1])
        output = self.encoder(frames, None if padding is None else moved(padding, frames.device))
        return [output.embedded, *output.hidden], frame_counts(lengths)


def padding_mask(lengths: Tensor, num_frames: int) -> Tensor | None:
    """Return a mask (B, T), True at padded frames, or None if there are none."""
    padding = torch.arange(num_frames, device=lengths.device) >= frame_counts(lengths)[:, None]
    return padding if bool(padding.any()) else None
