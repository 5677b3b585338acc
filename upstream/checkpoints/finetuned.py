"""Fine-tuning of the student: fixed convolutions, and masks over time and channels in training.

Shapes: B batch, N samples, T frames, D dimension.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mt4ssl_bench.device import moved, moved_rows
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.settings import Json
from mt4ssl_bench.upstream.checkpoints.waveform_checks import check_waveforms
from mt4ssl_bench.upstream.frontend import normalize
from mt4ssl_bench.upstream.masking import MaskingConfig, draw_masks
from mt4ssl_bench.upstream.model import MT4SSL, padding_mask
from mt4ssl_bench.upstream.recipe import from_stored


class TunedMT4SSL(nn.Module):
    """See finetuning.TunedModel; the masks and the fixed part are wav2vec 2.0's (wav2vec_ctc)."""

    def __init__(self, model: MT4SSL, config: TuneConfig) -> None:
        super().__init__()
        self.model = model
        self.time = MaskingConfig(prob=config.time_prob, length=config.time_length)
        self.channel = MaskingConfig(
            prob=config.channel_prob, length=config.channel_length, min_masks=0
        )
        for part in (model.frontend.convs, model.frontend.conv_norms):
            part.requires_grad_(requires_grad=False)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, generator: np.random.Generator | None = None
    ) -> Features:
        """See TunedModel.

        Raises:
            UpstreamError: For unusable waveforms.
        """
        model = self.model
        device = model.mask_emb.device
        pairs = zip(waveforms, lengths.tolist(), strict=True)
        waves = [wave[:length] for wave, length in pairs]
        frontend = model.config.frontend
        check_waveforms(
            waves, frontend.receptive_field
        )  # where they are: a GPU would be waited for
        waves = moved_rows(waves, device)
        padded = pad_sequence(
            [normalize(w) if frontend.normalize else w for w in waves],
            batch_first=True,
        )
        counts = frontend.frame_counts(lengths)
        padding = padding_mask(counts)
        padding = None if padding is None else moved(padding, device)
        x = model.frontend(padded, padding)  # (B, T, D)
        if generator is not None:
            x = self._mask(x, counts.tolist(), generator)
        output = model.encoder(x, padding)
        return Features(torch.stack([output.embedded, *output.hidden]), counts)

    def _mask(self, x: Tensor, counts: list[int], generator: np.random.Generator) -> Tensor:
        """Return x (B, T, D) with masked frames as the mask embedding and masked channels as 0."""
        batch, num_frames, dim = x.shape
        if self.time.prob > 0:
            mask = moved(draw_masks(counts, num_frames, self.time, generator), x.device)
            x = torch.where(mask[..., None], self.model.mask_emb.to(x.dtype), x)
        if self.channel.prob > 0:
            mask = moved(draw_masks([dim] * batch, dim, self.channel, generator), x.device)
            x = x.masked_fill(mask[:, None], 0)
        return x


def build(blueprint: Mapping[str, Json], config: TuneConfig) -> TunedMT4SSL:
    """Return the untrained module of a blueprint, with the dropouts of `config`."""
    stored = from_stored(cast("Mapping[str, Json]", blueprint["config"]))
    encoder = replace(
        stored.encoder,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        layer_drop=config.layer_drop,
    )
    frontend = replace(stored.frontend, warp=0.0)  # a key of pretraining
    model = MT4SSL(replace(stored, encoder=encoder, frontend=frontend), student_only=True)
    return TunedMT4SSL(model, config)
