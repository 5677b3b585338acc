"""Checks of the waveforms that an upstream is given."""

from torch import Tensor

from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD
from mt4ssl_bench.errors import UpstreamError


def check_waveforms(waves: list[Tensor], least: int = RECEPTIVE_FIELD) -> None:
    """Raise UpstreamError unless `waves` are finite float waveforms (N,) of `least` samples."""
    if not isinstance(waves, list | tuple) or not waves:
        raise UpstreamError("no waveforms: expected a list of 16 kHz waveforms, at least one")
    for i, wave in enumerate(waves):
        if problem := _problem(wave, least):
            raise UpstreamError(f"waveform {i}: {problem}")


def _problem(wave: Tensor, least: int) -> str:
    if not isinstance(wave, Tensor):
        return f"a {type(wave).__name__}; expected a tensor (samples,)"
    if wave.dim() != 1:
        shape = tuple(wave.shape)
        return f"shape {shape}; expected one channel, (samples,): average the channels first"
    if not wave.is_floating_point():
        kind = str(wave.dtype).removeprefix("torch.")
        return f"{kind} samples; expected float in [-1, 1]: divide int16 by 32768 first"
    if len(wave) < least:
        time = f"{1000 * least / RATE:g} ms at 16 kHz"
        return f"{len(wave)} samples; at least {least} ({time}) are needed"
    # a sum is many times faster, and finite unless a sample is not, or all of them are huge
    finite = wave.sum().isfinite() or wave.isfinite().all()
    return "" if finite else "holds NaN or infinite samples"
