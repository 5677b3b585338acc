"""MT4SSL: one student, any number of target extractors, one weighted sum of their losses.

Shapes: B batch, N samples, T frames, D dimension, M masked frames, R masks per utterance (clones).
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    targets: dict[str, Tensor]  # (M, ...) by extractor


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
            frames = checkpoint(self.frontend, waveforms, padding, use_reentrant=False)
        else:
            frames = self.frontend(waveforms, padding)  # (B, T, D)
        clones = len(masked.mask) // len(frames)
        x = frames.repeat(clones, 1, 1)
        x = torch.where(masked.mask[..., None], self.mask_emb.to(x.dtype), x)
        # losses read masked frames only, and so the last layer computes only these
        rows = None if padding is None else padding.repeat(clones, 1)
        output = self.encoder(x, rows, masked.queries)
        hidden = output.hidden[-1].flatten(0, 1)[masked.place]  # (M, D)
        sums, targets = {}, {}
        for name, extractor in self.named_extractors():
            every = extractor.targets(labels, frames, padding)
            targets[name] = every[masked.row, masked.time]
            sums[name] = extractor.loss(hidden, targets[name])
        return Losses(sums, len(hidden), hidden, targets)

    def total(self, losses: Losses, step: int = 0) -> Tensor:
        """Return the weighted sum of the losses after `step` updates, summed over masked frames."""
        weighted = [e.weight_after(step) * losses.sums[name] for name, e in self.named_extractors()]
        return torch.stack(weighted).sum()

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's input and each layer's output (B, T, D), and frame counts (B,).

        Waveforms (B, N) are normalized and zero-padded, of `lengths` (B,), which are on the host;
        outputs at padded frames mean nothing.
        """
        counts = self.config.frontend.frame_counts(lengths)
        padding = padding_mask(counts)
        padding = None if padding is None else moved(padding, waveforms.device)
        output = self.encoder(self.frontend(waveforms, padding), padding)
        return [output.embedded, *output.hidden], counts


def padding_mask(counts: Tensor) -> Tensor | None:
    """Return a mask (B, T) for `counts` (B,), True at padded frames, or None if there are none."""
    padding = torch.arange(int(counts.max()), device=counts.device) >= counts[:, None]
    return padding if bool(padding.any()) else None
