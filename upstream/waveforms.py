"""What a waveform must be, and its normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD
from mt4ssl_bench.errors import UpstreamError
from mt4ssl_bench.upstream.kernels import EPS


def normalize(waveform: Tensor) -> Tensor:
    """Return one waveform (N,) with mean 0 and variance 1 over the whole of it, as the model
    expects its input.
    """
    return F.layer_norm(waveform, waveform.shape, eps=EPS)


def check_waveforms(waves: list[Tensor]) -> None:
    """Raise UpstreamError unless `waves` are finite float waveforms (N,) of one frame or more."""
    if not isinstance(waves, list | tuple) or not waves:
        raise UpstreamError("no waveforms: expected a list of 16 kHz waveforms, at least one")
    for i, wave in enumerate(waves):
        if not isinstance(wave, Tensor):
            raise UpstreamError(
                f"waveform {i}: a {type(wave).__name__}; expected a tensor (samples,)"
            )
        if wave.dim() != 1:
            raise UpstreamError(
                f"waveform {i}: shape {tuple(wave.shape)}; expected one channel, (samples,): "
                "average the channels first"
            )
        if not wave.is_floating_point():
            raise UpstreamError(
                f"waveform {i}: {str(wave.dtype).removeprefix('torch.')} samples; expected float "
                "in [-1, 1]: divide int16 by 32768 first"
            )
        if len(wave) < RECEPTIVE_FIELD:
            raise UpstreamError(
                f"waveform {i}: {len(wave)} samples; at least {RECEPTIVE_FIELD} (25 ms at 16 kHz) "
                "are needed"
            )
        if not torch.isfinite(wave).all():
            raise UpstreamError(f"waveform {i}: holds NaN or infinite samples")
